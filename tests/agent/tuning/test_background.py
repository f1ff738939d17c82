"""Searches in the background: nothing waits for them, and nothing breaks with them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from msgspec.structs import replace
from tuning import TASK, Anywhere

from bench.proving.simulator.inline import Inline
from pipesd_agent.tuning.background import Background, BackgroundProposer, timed_search
from pipesd_agent.tuning.replay import Pair
from pipesd_agent.tuning.search import SearchResult, SearchTask

MINE = Pair(0.011, 0.022)


class Waiting:
    """Carries out a search when it may; until then, or until it is released, it waits."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.left = 0
        self.error: Exception | None = None

    def search(self, task: SearchTask) -> SearchResult:
        assert self.go.wait(60)
        if self.error is not None:
            raise self.error
        return timed_search(task, Anywhere(task.seed))

    def release(self) -> None:
        self.left += 1
        self.go.set()


def until(proposer: BackgroundProposer) -> SearchResult:
    due = time.monotonic() + 30
    while time.monotonic() < due:
        if (done := proposer.result()) is not None:
            return done
        time.sleep(0.01)
    raise AssertionError(proposer.failed or "no result")


def test_a_slow_search_holds_nobody_up() -> None:
    worker = Waiting()
    proposer = Background(worker).proposer()
    assert proposer.submit(TASK)
    assert not proposer.submit(TASK)
    assert proposer.result() is None
    worker.go.set()
    assert until(proposer).replayed
    assert proposer.result() is None
    assert proposer.submit(TASK)
    until(proposer)
    proposer.close()
    assert not proposer.submit(TASK)
    assert worker.left


def test_close_breaks_off_what_is_under_way() -> None:
    worker = Waiting()
    proposer = Background(worker).proposer()
    proposer.submit(TASK)
    began = time.monotonic()
    proposer.close()
    proposer.close()
    assert time.monotonic() - began < 50, "the search waits for 60 s"
    assert proposer.failed == "closed"
    Background(Waiting()).proposer().close()  # never begun


def test_a_worker_that_fails_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    worker = Waiting()
    worker.error = ImportError("no module named skopt")
    proposer = Background(worker).proposer()
    with caplog.at_level(logging.ERROR):
        assert proposer.submit(TASK)
        worker.go.set()
        due = time.monotonic() + 10
        while not (proposer.failed and worker.left) and time.monotonic() < due:
            time.sleep(0.01)
    assert "skopt" in proposer.failed
    assert not proposer.submit(TASK)
    assert proposer.result() is None
    assert "thresholds stay" in caplog.text
    proposer.close()


def test_an_idle_worker_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipesd_agent.tuning.background.IDLE_S", 0.02)
    worker = Waiting()
    worker.go.set()
    proposer = Background(worker).proposer()
    proposer.submit(TASK)
    until(proposer)
    due = time.monotonic() + 10
    while not worker.left and time.monotonic() < due:
        time.sleep(0.01)
    assert worker.left
    assert proposer.submit(TASK)
    assert until(proposer).replayed
    proposer.close()


def test_two_share_a_worker_and_get_each_their_own() -> None:
    worker = Waiting()
    background = Background(worker)
    one, other = background.proposer(), background.proposer()
    assert one.submit(TASK)
    assert other.submit(replace(TASK, pairs=(MINE,)))
    worker.go.set()
    assert MINE in until(other).replayed
    assert MINE not in until(one).replayed
    assert [thread.name for thread in threading.enumerate()].count("tuner") == 1
    one.close()
    assert not worker.left, "the other one is there"
    assert other.submit(TASK)
    assert until(other).replayed
    other.close()
    assert worker.left


def test_a_search_that_fails_is_no_trouble_to_the_other(caplog: pytest.LogCaptureFixture) -> None:
    worker = Waiting()
    worker.error = RuntimeError("too hard")
    background = Background(worker)
    one, other = background.proposer(), background.proposer()
    with caplog.at_level(logging.ERROR):
        assert one.submit(TASK)
        worker.go.set()
        due = time.monotonic() + 10
        while not (one.failed and worker.left) and time.monotonic() < due:
            time.sleep(0.01)
    assert "too hard" in one.failed
    worker.error = None
    assert other.submit(TASK)
    assert until(other).replayed
    assert not one.submit(TASK)
    one.close()
    other.close()


def test_inline() -> None:
    proposer = Inline(Anywhere)
    assert proposer.result() is None
    assert proposer.submit(TASK)
    assert not proposer.submit(TASK)
    done = proposer.result()
    assert done is not None
    assert done.cpu_s > 0
    proposer.close()
    assert not proposer.submit(TASK)


def test_a_search_that_failed_is_tried_again_later_and_a_dead_thread_is_replaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Waiting):
        def release(self) -> None:
            super().release()
            raise OSError("cannot be killed")

    worker = Failing()
    worker.error = RuntimeError("killed")
    worker.go.set()
    background = Background(worker)
    proposer = background.proposer()
    clock = [1000.0]
    monkeypatch.setattr(
        "pipesd_agent.tuning.background.time", SimpleNamespace(monotonic=lambda: clock[0], thread_time=time.thread_time)
    )

    def eventually(true: Callable[[], object]) -> None:
        due = time.monotonic() + 60
        while not true() and time.monotonic() < due:
            time.sleep(0.01)
        assert true()

    for pause in (60.0, 120.0, 240.0):
        assert proposer.submit(TASK)
        eventually(lambda: proposer.failed == "RuntimeError: killed")
        clock[0] += pause - 1.0
        assert not proposer.submit(TASK)
        clock[0] += 1.0
    assert caplog.text.count("a search failed") == 1

    first, carry_out = background._thread, background._carry_out
    assert first is not None
    monkeypatch.setattr(background, "_carry_out", lambda *_: 1 / 0)
    assert proposer.submit(TASK)
    first.join(60)
    assert proposer.failed.startswith("ZeroDivisionError")
    monkeypatch.setattr(background, "_carry_out", carry_out)
    worker.error = None
    clock[0] += 3600.0
    assert proposer.submit(TASK)
    assert proposer.failed == ""
    assert background._thread is not first
    assert until(proposer).replayed
    proposer.close()
    assert proposer.failed == "closed"
    assert not proposer.submit(TASK)
