"""The tuner's child process."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import threading
import time

import pytest
from tuning import TASK

from pipesd_agent.tuning import worker_process
from pipesd_agent.tuning.gaussian_process import make_skopt
from pipesd_agent.tuning.search import GRID, Studied, Task, study


def test_it_does_what_would_have_been_done_here_and_says_what_it_cannot_do() -> None:
    child = worker_process.Child()
    child.let_go()  # nothing is there yet
    done = child.study(TASK)
    assert done.rehearsed == study(TASK, make_skopt(TASK.seed)).rehearsed
    assert done.cpu_s > 0
    with pytest.raises(RuntimeError, match=r"failed: [A-Z][A-Za-z]*Error: "):
        child.study(Task((), TASK.costs, 16, "planned", 0.0, GRID[:1], {}, 1))
    process = child._process
    assert process is not None
    child.let_go()
    assert process.poll() is not None


def test_it_is_let_go_in_the_middle() -> None:
    child = worker_process.Child()
    errors: list[Exception] = []

    def run() -> None:
        try:
            child.study(TASK)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while child._process is None:
        time.sleep(0.01)
    child.let_go()
    thread.join(20)
    assert not thread.is_alive()
    assert "ended with status -9" in str(errors[0]) or "ended with status None" in str(errors[0])


def test_it_ends_with_its_input_and_not_before() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "pipesd_agent.tuning.worker_process"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    pickle.dump(TASK, process.stdin)
    process.stdin.flush()
    assert isinstance(pickle.load(process.stdout), Studied)
    process.terminate()  # the parent is meant
    process.send_signal(signal.SIGINT)
    pickle.dump(TASK, process.stdin)
    process.stdin.flush()
    assert isinstance(pickle.load(process.stdout), Studied)
    process.communicate(timeout=30)
    assert process.returncode == 0
