"""The tuner's child process."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from msgspec.structs import replace
from tuning import TASK

from pipesd_agent.tuning import worker_process
from pipesd_agent.tuning.background import Background, BackgroundProposer
from pipesd_agent.tuning.optimizers.choice import MAKERS, OptimizerName
from pipesd_agent.tuning.replay import Pair
from pipesd_agent.tuning.search import GRID, SearchResult, SearchTask, search


@pytest.mark.parametrize("optimizer", ["bayes", "search"])
def test_it_does_what_would_have_been_done_here_and_says_what_it_cannot_do(optimizer: OptimizerName) -> None:
    child = worker_process.WorkerProcess(optimizer)
    child.release()  # nothing is there yet
    done = child.search(TASK)
    assert done.replayed == search(TASK, MAKERS[optimizer](TASK.seed)).replayed
    assert done.cpu_s > 0
    with pytest.raises(RuntimeError, match=r"failed: [A-Z][A-Za-z]*Error: "):
        child.search(SearchTask((), TASK.costs, 16, "planned", 0.0, GRID[:1], {}, 1))
    process = child._process
    assert process is not None
    child.release()
    assert process.poll() is not None


def test_it_is_let_go_in_the_middle() -> None:
    child = worker_process.WorkerProcess("bayes")
    errors: list[Exception] = []

    def run() -> None:
        try:
            child.search(TASK)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while child._process is None:
        time.sleep(0.01)
    child.release()
    thread.join(20)
    assert not thread.is_alive()
    assert "ended with status -9" in str(errors[0]) or "ended with status None" in str(errors[0])


def test_it_ends_with_its_input_and_not_before() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "pipesd_agent.tuning.worker_process", "search"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    pickle.dump(TASK, process.stdin)
    process.stdin.flush()
    assert isinstance(pickle.load(process.stdout), SearchResult)
    process.terminate()  # the parent is meant
    process.send_signal(signal.SIGINT)
    pickle.dump(TASK, process.stdin)
    process.stdin.flush()
    assert isinstance(pickle.load(process.stdout), SearchResult)
    process.communicate(timeout=30)
    assert process.returncode == 0


def until(proposer: BackgroundProposer) -> SearchResult:
    due = time.monotonic() + 30
    while time.monotonic() < due:
        if (done := proposer.result()) is not None:
            return done
        time.sleep(0.01)
    raise AssertionError(proposer.failed or "no result")


def test_two_tuners_have_one_process_which_ends_when_nothing_is_to_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipesd_agent.tuning.background.IDLE_S", 1.0)
    child = worker_process.WorkerProcess("search")
    background = Background(child)
    greedy, sampled = background.proposer(), background.proposer()
    assert children() == [], "there is nothing to search yet"
    tasks = [replace(TASK, pairs=(pair,)) for pair in (Pair(0.011, 0.022), Pair(0.033, 0.044))]
    assert greedy.submit(tasks[0])
    assert sampled.submit(tasks[1])
    for proposer, task in zip((greedy, sampled), tasks, strict=True):
        assert until(proposer).replayed == search(task, MAKERS["search"](task.seed)).replayed
    assert len(children()) == 1
    due = time.monotonic() + 20
    while children() and time.monotonic() < due:
        time.sleep(0.01)
    assert children() == []
    assert greedy.submit(TASK)
    assert until(greedy).replayed
    assert len(children()) == 1
    greedy.close()
    sampled.close()
    assert children() == []


def children() -> list[int]:
    """Child processes of this one, as Linux lists them."""
    pids = (int(pid) for of in Path("/proc/self/task").glob("*/children") for pid in of.read_text().split())
    return [pid for pid in pids if b"worker_process" in Path(f"/proc/{pid}/cmdline").read_bytes()]
