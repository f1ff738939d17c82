"""The comparison of the agent's batchers over the uplinks."""

from __future__ import annotations

import json
import sys

import pytest
from made import table_lines as lines

from bench.proving import __main__ as command
from bench.proving.methods import schedules
from bench.proving.methods.fixed import FIXED
from bench.proving.reports.sections import Rows
from bench.proving.reports.sections import schedules as section
from bench.proving.simulator.scenario import LAPTOP, NARROW
from bench.proving.simulator.script import Script
from bench.proving.traces.stochastic import make_table
from pipesd_agent.control.batchers import BATCHERS

SCRIPTS = [Script(trace) for trace in make_table("made-up", 6, 128, seed=11).traces]


def test_by_expectation_is_the_best_on_the_narrowest_link() -> None:
    tpt = {name: schedules.played(name, FIXED, NARROW[0], SCRIPTS)[0].tpt_ms for name in BATCHERS}
    assert tpt["expected"] < 1.003 * min(tpt.values())
    assert tpt["expected"] < 0.99 * tpt["immediate"]
    assert tpt["expected"] < tpt["dp"]


@pytest.mark.parametrize("name", ["dp", "expected"])
def test_a_fast_link_gets_each_token_at_once(name: str) -> None:
    link = LAPTOP.uplink(1)
    assert schedules.played(name, FIXED, link, SCRIPTS)[0] == schedules.played("immediate", FIXED, link, SCRIPTS)[0]


def test_lengths_are_learnt() -> None:
    planner = schedules.played("dp", FIXED, NARROW[0], SCRIPTS)[1]
    assert planner.n_hat < 10
    assert planner.lengths.added > 20


def test_rows_and_their_section() -> None:
    rows = Rows(schedules.rows("made-up", SCRIPTS[:1], [NARROW[1], LAPTOP]))
    assert not rows.cells, "not among the methods"
    table = section(rows)
    assert len(table.splitlines()) == 2 + 4
    last = table.splitlines()[-1].split(" | ")
    assert last[:3] == ["| made-up, default", "1-laptop", "0.027, 0.001, 36"]
    assert [float(x) for x in last[4:7]] == pytest.approx([1, 1, 1], abs=0.01)
    assert len(lines(section(Rows([])))) == 2


def test_the_command_can_run_them_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["proving", "--quick", "--cell", "made-up//schedules"])
    monkeypatch.setattr(schedules, "LINKS", (LAPTOP,))
    command.main()
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["method"] for row in rows] == [*BATCHERS, *BATCHERS]
