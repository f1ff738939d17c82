"""scikit-optimize, and when it is imported."""

from __future__ import annotations

import subprocess
import sys

from tuning import TASK

from pipesd_agent.tuning.optimizers.gaussian_process import make_skopt
from pipesd_agent.tuning.search import search


def test_it_finds_the_bottom_of_a_bowl() -> None:
    optimizer = make_skopt(3)
    grid = [(x / 3, y / 3) for x in range(4) for y in range(4)]
    optimizer.tell(grid, [(x - 0.4) ** 2 + (y - 0.7) ** 2 for x, y in grid])
    best = 1.0
    for _ in range(4):
        x, y = optimizer.ask()
        best = min(best, (x - 0.4) ** 2 + (y - 0.7) ** 2)
        optimizer.tell([(x, y)], [(x - 0.4) ** 2 + (y - 0.7) ** 2])
    assert best < 0.02


def test_equal_points_and_equal_values_are_no_trouble() -> None:
    optimizer = make_skopt(1)
    optimizer.tell([(0.5, 0.5)] * 6, [1.0] * 6)
    for _ in range(3):
        point = optimizer.ask()
        optimizer.tell([point, point], [1.0, 1.0])


def test_equal_seeds_give_equal_searches() -> None:
    one, other = (search(TASK, make_skopt(5)) for _ in range(2))
    assert one.replayed == other.replayed


def test_the_agent_starts_without_it() -> None:
    code = (
        "import sys, pipesd_agent.cli, pipesd_agent.build, pipesd_agent.agent\n"
        "import pipesd_agent.tuning.per_sampling, pipesd_agent.tuning.worker_process\n"
        "print([m for m in ('skopt', 'sklearn', 'scipy', 'threadpoolctl', 'joblib') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"
