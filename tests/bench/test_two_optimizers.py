"""The comparison of the tuner's optimizers, on a part of a recorded table."""

from __future__ import annotations

import pytest

from bench.proving.methods.regret import Setting
from bench.proving.reports import optimizers
from bench.proving.simulator.scenario import LAPTOP
from bench.proving.traces.recorded import recorded
from bench.proving.traces.table import Table
from pipesd_agent.tuning.search import GRID


@pytest.fixture(scope="module")
def table() -> Table:
    whole = recorded("humaneval", 1.0)
    return Table(whole.name, whole.traces[:3])


def test_text_is_what_an_agent_records(table: Table) -> None:
    text = list(optimizers.judged(table))
    assert 0.9 * sum(len(trace.tokens) for trace in table.traces) < len(text)
    assert all(bool(one.discarded_confidences) <= (not one.right) for one in text)
    assert 0 < sum(one.right for one in text) < len(text)
    assert any(one.discarded_confidences for one in text)


def test_both_are_compared_on_every_case(table: Table) -> None:
    some = list(optimizers.cases([table], [LAPTOP], 1))
    assert [case.price_ms for case in some] == list(optimizers.PRICES_MS)
    done = list(optimizers.outcomes(some[1], (2, 5)))
    assert [one.asks for one in done] == [2, 5]
    for one in done:
        assert 0.9 * one.dense < min(one.found.values()) <= max(one.found.values()) <= one.grid
        assert min(one.cpu_s.values()) > 0
    page = optimizers.section(done)
    assert f"| all | {len(GRID)} + 5 | 1 |" in page
    assert page.count("| 1-laptop |") == 2


def test_the_whole_tuner_is_played_with_either(table: Table) -> None:
    page = optimizers.whole([Setting(table, LAPTOP, 20.0)], 1, 250)
    line = page.splitlines()[-1]
    assert line.startswith("| humaneval-t1, 1-laptop, 20 ms a NAV | ")
    assert line.count("%") == 8
