"""Traces of a live agent, made whole and played."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from test_live import EOS, lived

from bench.proving import __main__ as command
from bench.proving.methods.contenders import CONTENDERS, play
from bench.proving.simulator.scenario import LAPTOP
from bench.proving.simulator.script import Script
from bench.proving.traces.filled import fill, known, live_table
from bench.proving.traces.live import rows
from bench.proving.traces.table import NOTHING, UNKNOWN
from pipesd_agent.telemetry.tracing import LiveTrace

TRACES = [rows(lived(seed)) for seed in range(8)]


def test_what_is_known_stays_and_no_gap_is_left() -> None:
    for before, after in zip(TRACES, fill(TRACES), strict=True):
        kept = before.drafts != UNKNOWN
        assert not (after.drafts == UNKNOWN).any()
        np.testing.assert_array_equal(after.drafts[kept], before.drafts[kept])
        for name in ("confidence", "margin", "entropy"):
            np.testing.assert_array_equal(getattr(after, name)[kept], getattr(before, name)[kept])
        assert (after.confidence[after.drafts != NOTHING] > 0).all()


def test_equal_traces_give_equal_tables() -> None:
    for one, other in zip(fill(TRACES), fill(TRACES), strict=True):
        np.testing.assert_array_equal(one.drafts, other.drafts)
        np.testing.assert_array_equal(one.confidence, other.confidence)


def test_filled_positions_are_right_as_often_as_known_ones_behind_the_same() -> None:
    """The longer the gaps, the more it would show."""
    filled = fill(TRACES)
    shares = []
    for part in (True, False):
        where = [(trace.drafts[:, 0] != UNKNOWN) == part for trace in TRACES]
        right = [t.drafts[:, 0][w] == t.tokens[w] for t, w in zip(filled, where, strict=True)]
        shares.append(float(np.concatenate(right).mean()))
    assert shares[1] == pytest.approx(shares[0], abs=0.1)
    assert 0.05 < 1 - known(TRACES) < 0.95


def test_a_draft_that_was_made_up_is_no_end_of_text_and_not_right_by_chance() -> None:
    for before, after in zip(TRACES, fill(TRACES), strict=True):
        new = before.drafts[:, 1:] == UNKNOWN
        astray = new & (after.drafts[:, :1] != after.tokens[:, None])
        assert not (after.drafts[:, 1:][astray] == EOS).any()


def write(folder: Path, traces: list[LiveTrace]) -> None:
    for number, trace in enumerate(traces):
        (folder / f"{number}.trace.json").write_bytes(msgspec.json.encode(trace))


def test_every_method_plays_them(tmp_path: Path) -> None:
    write(tmp_path, [lived(seed) for seed in range(3)])
    table, share = live_table(tmp_path)
    assert 0 < share < 1
    scripts = [Script(trace) for trace in table.traces]
    for contender in CONTENDERS:
        figures = play(contender.make(*(contender.first or ())), scripts, LAPTOP)
        assert figures.tokens == sum(map(len, scripts))
        assert figures.tpt_ms > 0


def test_the_command_plays_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, [lived(seed) for seed in range(4)])
    out = tmp_path / "out"
    monkeypatch.setattr("sys.argv", ["x", "--traces", str(tmp_path), "--cell", "/1-laptop/pipesd", "--out", str(out)])
    command.main()
    [row] = map(json.loads, (out / "rows.jsonl").read_text().splitlines())
    assert (row["workload"], row["method"]) == ("live", "pipesd")
    assert 0 < row["known"] < 1
    assert list(json.loads((out / "manifest.json").read_text())["workloads"]) == ["live"]


def test_a_folder_that_cannot_be_played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["x", "--traces", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"--traces: .* holds 0 traces .* record them"):
        command.main()
    undrafted = msgspec.structs.replace(lived(1), drafted=())
    write(tmp_path, [undrafted, undrafted])
    with pytest.raises(SystemExit, match="of no position"):
        command.main()
