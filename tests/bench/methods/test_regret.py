"""The tuner against its rivals, in small."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from made import table_lines

from bench.proving.methods import regret
from bench.proving.methods.regret import (
    DEFAULT,
    Curve,
    Ground,
    Setting,
    fixed,
    grid,
    random,
    rivals,
    row,
    settings,
    tuned,
)
from bench.proving.reports import regret_report
from bench.proving.simulator.scenario import LAPTOP
from bench.proving.traces.stochastic import make_table
from pipesd_agent.tuning.search import Point

TABLE = make_table("small", 4, 150)


class Spread:
    """Asks for points here and there."""

    def __init__(self, seed: int) -> None:
        self._at = seed % 7

    def tell(self, points: Sequence[Point], values: Sequence[float]) -> None:
        pass

    def ask(self) -> Point:
        self._at += 1
        return (0.37 * self._at) % 1, (0.61 * self._at) % 1


@pytest.fixture(scope="module")
def ground() -> Ground:
    return Ground(Setting(TABLE, LAPTOP, 20.0))


def test_the_best_pair_has_no_regret(ground: Ground) -> None:
    assert ground.regret(ground.best) == 0
    assert ground.regret(DEFAULT) > 0.05
    curve = fixed(ground.best)(ground, 1, 1000)
    assert curve.checks == [250, 500, 1000]
    assert curve.cumulative == [0, 0, 0]


@pytest.mark.parametrize("seed", [1, 2])
def test_ours_is_near_it_soon(ground: Ground, seed: int) -> None:
    curve, more = tuned(ground, seed, 1500, Spread)
    assert curve.simple[curve.checks.index(1500)] < 0.05
    assert curve.cumulative == sorted(curve.cumulative, reverse=True)
    assert more["explored"] < 0.03
    assert more["explored_in_truth"] < 0.03
    again, _ = tuned(ground, seed, 1500, Spread)
    assert again.simple == curve.simple


@pytest.mark.parametrize("search", [grid(40), random(40)], ids=["grid", "random"])
def test_searches_pay_for_what_they_try(ground: Ground, search: regret.Search) -> None:
    curve = search(ground, 3, 5000)
    assert curve.done
    assert curve.simple[-1] < ground.regret(DEFAULT)
    assert curve.cumulative[-1] > curve.simple[-1]


def test_searches_may_run_out_of_tokens(ground: Ground) -> None:
    assert grid(400)(ground, 1, 500).done


def test_settings_and_rivals() -> None:
    assert len({(one.scenario.name, one.price_ms) for one in settings([TABLE] * 5, TABLE)}) == 4
    assert list(rivals())[:2] == ["default", "published"]


def test_the_report(ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(seed: int, tokens: int) -> Curve:
        return fixed(DEFAULT)(ground, seed, tokens)

    more = {"explored": 0.01, "explored_in_truth": 0.02, "study_cpu_s": 1.0, "studies": 3, "trials": 2, "changes": 1}
    rows = [row(ground, method, seed, short(seed, 5000), {}) for method in ("grid", "random", "BO") for seed in (0, 1)]
    long = row(ground, "ours", 0, short(0, 5000), more)
    long["checks"], long["simple"] = [*long["checks"], 50_000], [*long["simple"], 0.01]
    long["cumulative"] = [*long["cumulative"], 0.02]
    rows = [long, row(ground, "ours", 1, short(1, 5000), more), *rows]
    regret_report.keep(rows, tmp_path)
    again = regret_report.read(tmp_path)
    compared, own = regret_report.section(again).split("\n\n")
    assert "small, 1-laptop, 20 ms a NAV" in table_lines(compared)
    assert table_lines(own)["small, 1-laptop, 20 ms a NAV"][4:7] == ["1.0 %", "2.0 %", "2.0 %"]
    for file in ("one.svg", "two.svg"):
        regret_report.draw(again, tmp_path / file)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    page = tmp_path / "page.md"
    page.write_text("<!-- begin: regret -->\n<!-- end: regret -->\n")
    monkeypatch.setattr(regret_report, "PAGE", page)
    monkeypatch.setattr(regret_report, "FOLDER", tmp_path)
    monkeypatch.setattr("sys.argv", ["regret_report"])
    regret_report.main()
    assert compared in page.read_text()
    assert (tmp_path / "regret.svg").exists()
