"""Who does studies: nothing waits for them, and nothing breaks with them."""

from __future__ import annotations

import logging
import threading
import time

import pytest
from tuning import TASK, Anywhere

from bench.proving.simulator.inline import Inline
from pipesd_agent.tuning.background import InThread, timed
from pipesd_agent.tuning.search import Studied, Task


class Waiting:
    """Studies when it may; until then, or until it is let go, it waits."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.left = 0
        self.error: Exception | None = None

    def study(self, task: Task) -> Studied:
        assert self.go.wait(10)
        if self.error is not None:
            raise self.error
        return timed(task, Anywhere(task.seed))

    def let_go(self) -> None:
        self.left += 1
        self.go.set()


def until(proposer: InThread) -> Studied:
    due = time.monotonic() + 30
    while time.monotonic() < due:
        if (done := proposer.result()) is not None:
            return done
        time.sleep(0.01)
    raise AssertionError(proposer.failed or "no result")


def test_a_slow_study_holds_nobody_up() -> None:
    student = Waiting()
    proposer = InThread(student)
    assert proposer.submit(TASK)
    assert not proposer.submit(TASK)
    assert proposer.result() is None
    student.go.set()
    assert until(proposer).rehearsed
    assert proposer.result() is None
    assert proposer.submit(TASK)
    until(proposer)
    proposer.close()
    assert not proposer.submit(TASK)
    assert student.left


def test_close_breaks_off_what_is_under_way() -> None:
    student = Waiting()
    proposer = InThread(student)
    proposer.submit(TASK)
    began = time.monotonic()
    proposer.close()
    proposer.close()
    assert time.monotonic() - began < 2
    assert proposer.failed == "closed"
    InThread(Waiting()).close()  # never begun


def test_a_student_that_fails_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    student = Waiting()
    student.error = ImportError("no module named skopt")
    proposer = InThread(student)
    with caplog.at_level(logging.ERROR):
        assert proposer.submit(TASK)
        student.go.set()
        due = time.monotonic() + 10
        while not (proposer.failed and student.left) and time.monotonic() < due:
            time.sleep(0.01)
    assert "skopt" in proposer.failed
    assert not proposer.submit(TASK)
    assert proposer.result() is None
    assert "thresholds stay" in caplog.text
    proposer.close()


def test_an_idle_student_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipesd_agent.tuning.background.IDLE_S", 0.02)
    student = Waiting()
    student.go.set()
    proposer = InThread(student)
    proposer.submit(TASK)
    until(proposer)
    due = time.monotonic() + 10
    while not student.left and time.monotonic() < due:
        time.sleep(0.01)
    assert student.left
    assert proposer.submit(TASK)
    assert until(proposer).rehearsed
    proposer.close()


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
