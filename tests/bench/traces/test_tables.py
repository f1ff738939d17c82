"""The recorded tables of both pairs, as they ship: whole, and of one piece."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest

from bench.proving.traces.all_tables import MADE, tables
from bench.proving.traces.recorded import PAIRS, figures, recorded, table_name
from bench.proving.traces.table import DEPTH, NOTHING, Table, Trace
from bench.proving.traces.workloads import workload

PAIR_OF = {name: pair for pair, recordings in PAIRS.items() for name in recordings.workloads}
ALL = [(name, temperature) for name, pair in PAIR_OF.items() for temperature in PAIRS[pair].temperatures]
COLUMNS = ("drafts", "confidence", "margin", "entropy")
MANIFESTS: dict[str, dict[str, Any]] = {
    pair: json.loads((recordings.tables / "manifest.json").read_text()) for pair, recordings in PAIRS.items()
}
MOST_BYTES = {"toy": 3e6, "real": 8e6}


@cache
def table(name: str, temperature: float) -> Table:
    return recorded(name, temperature)


def traces() -> list[Trace]:
    return [trace for which in ALL for trace in table(*which).traces]


@pytest.mark.parametrize(("name", "temperature"), ALL)
def test_every_sequence_of_the_workload_is_there(name: str, temperature: float) -> None:
    found = table(name, temperature)
    assert [trace.name for trace in found.traces] == [work.name for work in workload(name)]
    assert {trace.temperature for trace in found.traces} == {temperature}
    most = MANIFESTS[PAIR_OF[name]]["max_tokens"]
    assert all(0 < len(trace.tokens) <= most for trace in found.traces)
    for trace in found.traces:
        ends = np.isin(trace.tokens, trace.eos)
        assert not ends[:-1].any()
        assert ends[-1] or len(trace.tokens) == most


def test_a_row_whose_first_draft_is_right_goes_on_in_the_next() -> None:
    pairs = 0
    for trace in traces():
        for position in np.flatnonzero(trace.drafts[:-1, 0] == trace.tokens[:-1]):
            pairs += 1
            for column in COLUMNS:
                rows = getattr(trace, column)
                np.testing.assert_array_equal(rows[position + 1, : DEPTH - 1], rows[position, 1:])
    assert pairs > 6000


def test_figures_are_those_of_drafts() -> None:
    for trace in traces():
        drafted = trace.drafts != NOTHING
        assert (trace.drafts[drafted] >= 0).all()
        assert drafted[:, 0].all()
        assert not (drafted[:, 1:] & ~drafted[:, :-1]).any(), "a row has no gaps"
        ended = np.isin(trace.drafts, trace.eos)
        assert not (ended[:, :-1] & drafted[:, 1:]).any(), "nothing comes after an end of text"
        assert (trace.confidence[drafted] > 0).all()
        assert (trace.confidence <= 1).all()
        for column in (trace.confidence, trace.margin, trace.entropy):
            assert (column >= 0).all()
            assert not column[~drafted].any()


@pytest.mark.parametrize(("name", "temperature"), ALL)
def test_halves(name: str, temperature: float) -> None:
    tuning, report = table(name, temperature).halves()
    assert len(tuning.traces) == len(report.traces) == len(workload(name)) / 2
    assert not {t.name for t in tuning.traces} & {t.name for t in report.traces}


@pytest.mark.parametrize(("name", "temperature"), ALL)
def test_the_manifest_is_of_these_tables(name: str, temperature: float) -> None:
    found = figures(table(name, temperature))
    print(table_name(name, temperature), found)
    kept = MANIFESTS[PAIR_OF[name]]["tables"][table_name(name, temperature)]
    assert found == {key: value for key, value in kept.items() if key in found}
    assert 0.25 < found["acceptance"] < 0.9


def test_a_confident_draft_is_right_more_often() -> None:
    for which in ALL:
        confidence = np.concatenate([trace.confidence[:, 0] for trace in table(*which).traces])
        right = np.concatenate([trace.drafts[:, 0] == trace.tokens for trace in table(*which).traces])
        sure = confidence > np.median(confidence)
        assert right[sure].mean() > right[~sure].mean() + 0.2


@pytest.mark.parametrize("pair", PAIRS)
def test_the_tables_are_small(pair: str) -> None:
    assert sum(path.stat().st_size for path in PAIRS[pair].tables.iterdir() if path.is_file()) < MOST_BYTES[pair]


def test_all_tables_are_played_the_real_pairs_first() -> None:
    names = [table.name for table in tables()]
    assert names[:3] == ["real-t0", "real-t0.8", MADE]
    assert set(names) == {MADE, *(table_name(*which) for which in ALL)}
