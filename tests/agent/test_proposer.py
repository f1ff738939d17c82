"""Who does studies: nothing waits for them, and nothing breaks with them."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import pytest

from pipesd_agent.proposer import Inline, InThread, make_skopt
from pipesd_agent.rehearsal import Costs, Judged
from pipesd_agent.study import Optimizer, Point, Studied, Task

TASK = Task((Judged(0.9, right=True),) * 40, Costs(0.03, 0.02, 0.01), 16, "planned", 0.0, (), {}, 1)


class Middle:
    """Looks in the middle; before that it waits for `go`."""

    def __init__(self, go: threading.Event) -> None:
        self._go = go

    def tell(self, points: Sequence[Point], values: Sequence[float]) -> None:
        pass

    def ask(self) -> Point:
        assert self._go.wait(10)
        return 0.5, 0.5


def until(proposer: InThread) -> Studied:
    due = time.monotonic() + 30
    while time.monotonic() < due:
        if (done := proposer.result()) is not None:
            return done
        time.sleep(0.01)
    raise AssertionError(proposer.failed or "no result")


def test_a_slow_study_holds_nobody_up() -> None:
    go = threading.Event()
    proposer = InThread(lambda _: Middle(go))
    assert proposer.submit(TASK)
    assert not proposer.submit(TASK)
    assert proposer.result() is None
    go.set()
    assert until(proposer).rehearsed
    assert proposer.result() is None
    assert proposer.submit(TASK)
    until(proposer)
    proposer.close()
    assert not proposer.submit(TASK)


def test_close_does_not_wait_for_ever() -> None:
    go = threading.Event()
    proposer = InThread(lambda _: Middle(go))
    proposer.submit(TASK)
    began = time.monotonic()
    proposer.close(0.05)
    proposer.close(0.05)
    assert time.monotonic() - began < 2
    go.set()


def test_a_proposer_that_dies_says_so(caplog: pytest.LogCaptureFixture) -> None:
    def make(_: int) -> Optimizer:
        raise ImportError("no module named skopt")

    proposer = InThread(make)
    with caplog.at_level(logging.ERROR):
        assert proposer.submit(TASK)
        due = time.monotonic() + 10
        while not proposer.failed and time.monotonic() < due:
            time.sleep(0.01)
    assert "skopt" in proposer.failed
    assert not proposer.submit(TASK)
    assert proposer.result() is None
    assert "thresholds stay" in caplog.text
    proposer.close()


def test_skopt_finds_the_bottom_of_a_bowl() -> None:
    optimizer = make_skopt(3)
    grid = [(x / 3, y / 3) for x in range(4) for y in range(4)]
    optimizer.tell(grid, [(x - 0.4) ** 2 + (y - 0.7) ** 2 for x, y in grid])
    best = 1.0
    for _ in range(4):
        x, y = optimizer.ask()
        best = min(best, (x - 0.4) ** 2 + (y - 0.7) ** 2)
        optimizer.tell([(x, y)], [(x - 0.4) ** 2 + (y - 0.7) ** 2])
    assert best < 0.02


def test_equal_seeds_give_equal_studies() -> None:
    proposers = [Inline(make_skopt), Inline(make_skopt)]
    for proposer in proposers:
        assert proposer.submit(TASK)
    one, other = (proposer.result() for proposer in proposers)
    assert one is not None
    assert other is not None
    assert one.rehearsed == other.rehearsed
    assert one.cpu_s > 0


def test_the_agent_starts_without_skopt() -> None:
    code = (
        "import sys, pipesd_agent.cli, pipesd_agent.agent, pipesd_agent.tuners, pipesd_agent.proposer\n"
        "print([m for m in ('skopt', 'sklearn', 'scipy', 'threadpoolctl', 'joblib') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"
