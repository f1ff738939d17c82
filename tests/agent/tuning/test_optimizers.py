"""Bayesian optimisation and compass search, behind one interface; which one there is, and what says so."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tuning import COSTS, WINDOW, text

from pipesd_agent.config import AgentConfig
from pipesd_agent.tuning.optimizers.choice import in_use
from pipesd_agent.tuning.optimizers.compass import make_compass
from pipesd_agent.tuning.optimizers.gaussian_process import make_skopt
from pipesd_agent.tuning.replay import Judged, PipelineCosts, replay
from pipesd_agent.tuning.search import MakeOptimizer, SearchTask, search, to_pair
from pipesd_agent.tuning.settings import TunerSettings
from pipesd_core.errors import ConfigError

DENSE = [to_pair((x / 23, y / 23)) for x in range(24) for y in range(24)]
BOTH = pytest.mark.parametrize("make", [make_skopt, make_compass], ids=["bayes", "search"])


def found(make: MakeOptimizer, some: tuple[Judged, ...], costs: PipelineCosts, verification_cost_s: float) -> float:
    """The least objective that a search finds, over that of a dense grid."""
    done = search(SearchTask(some, costs, WINDOW, "planned", verification_cost_s, (), {}, 1), make(1))
    best = min(done.replayed, key=lambda pair: statistics.fmean(done.replayed[pair]))
    least = min(replay(some, pair, costs, WINDOW).per_token(verification_cost_s) for pair in DENSE)
    return replay(some, best, costs, WINDOW).per_token(verification_cost_s) / least


@BOTH
@pytest.mark.parametrize("costs", [COSTS, PipelineCosts(0.01, 0.1, 0.05), PipelineCosts(0.05, 0.01, 0.005)])
@pytest.mark.parametrize("verification_cost_s", [0.0, 0.2])
def test_both_find_what_a_dense_grid_finds_or_nearly(
    make: MakeOptimizer, costs: PipelineCosts, verification_cost_s: float
) -> None:
    ratios = [found(make, text(1536, random.Random(seed)), costs, verification_cost_s) for seed in range(3)]
    assert statistics.median(ratios) < 1.02
    assert max(ratios) < 1.04


def test_compass_search_goes_to_the_bottom_of_a_bowl() -> None:
    def bowl(x: float, y: float) -> float:
        return (x - 0.37) ** 2 + 2 * (y - 0.93) ** 2

    optimizer = make_compass(0)
    optimizer.tell([(0.2, 0.5), (0.8, 0.5)], [bowl(0.2, 0.5), bowl(0.8, 0.5)])
    asked = []
    for _ in range(40):
        asked.append(optimizer.ask())
        optimizer.tell([asked[-1]], [bowl(*asked[-1])])
    assert min(bowl(*point) for point in asked) < 1e-4
    assert len(set(asked)) == len(asked), "nothing is asked for twice"


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=8), st.lists(st.floats(-9, 9), min_size=8))
def test_compass_search_stays_in_the_square_and_always_has_an_answer(
    points: list[tuple[float, float]], values: list[float]
) -> None:
    optimizer = make_compass(0)
    optimizer.tell(points, values[: len(points)])
    for value in values[:8]:
        point = optimizer.ask()
        assert all(0 <= at <= 1 for at in point)
        assert point == optimizer.ask()
        optimizer.tell([point], [value])


def test_what_a_setting_comes_to(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [in_use(setting) for setting in ("auto", "bayes", "search")] == ["bayes", "bayes", "search"]
    monkeypatch.setitem(sys.modules, "skopt", None)
    assert [in_use(setting) for setting in ("auto", "search")] == ["search", "search"]
    assert AgentConfig().tuner.optimizer == "auto"
    for make in (lambda: in_use("bayes"), lambda: AgentConfig(tuner=TunerSettings(optimizer="bayes"))):
        with pytest.raises(ConfigError, match=r"tuner\.optimizer.*pip install 'pipesd-agent\[tuner\]'"):
            make()
    TunerSettings(enabled=False, optimizer="bayes")  # nothing looks for anything


def without_scikit_optimize(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python where none of it can be imported."""
    gone = ("skopt", "sklearn", "scipy", "joblib", "threadpoolctl")
    blocked = f"import sys\nsys.modules |= dict.fromkeys({gone})\n"
    command = [sys.executable, "-c", blocked + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("optimizer", ["auto", "search"])
def test_an_agent_without_scikit_optimize_has_search_and_says_so(optimizer: str) -> None:
    ran = without_scikit_optimize(
        "import logging\n"
        "logging.basicConfig(level=logging.INFO, stream=sys.stdout, format='%(message)s')\n"
        "from pipesd_agent.build import make_agent\n"
        "from pipesd_agent.api.metrics import AgentRequests, families_of\n"
        "from pipesd_agent.config import load\n"
        "from pipesd_core.service.exposition import render\n"
        "flags = {'tuner': {'optimizer': sys.argv[1]}} if sys.argv[1] != 'auto' else {}\n"
        "print(render(families_of(make_agent(load(flags, {}, None)).figures(), AgentRequests())).decode())",
        optimizer,
    )
    assert ran.returncode == 0, ran.stderr
    assert 'pipesd_agent_tuner_info{optimizer="search"} 1.0' in ran.stdout
    assert "tuner: searching thresholds by coordinate search" in ran.stdout
    assert ("pip install 'pipesd-agent[tuner]'" in ran.stdout) == (optimizer == "auto")


def test_bayes_without_scikit_optimize_is_refused_at_the_start(tmp_path: Any) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('[tuner]\noptimizer = "bayes"\n')
    code = "from pipesd_agent.cli import main\nsys.exit(main(['start', '--config', sys.argv[1]]))"
    ran = without_scikit_optimize(code, str(file))
    assert ran.returncode == 2
    assert "tuner.optimizer" in ran.stderr
    assert "pip install 'pipesd-agent[tuner]'" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_no_such_optimizer_is_refused(tmp_path: Any) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('[tuner]\noptimizer = "grid"\n')
    code = "from pipesd_agent.cli import main\nsys.exit(main(['start', '--config', sys.argv[1]]))"
    ran = without_scikit_optimize(code, str(file))
    assert ran.returncode == 2
    assert "tuner.optimizer" in ran.stderr
