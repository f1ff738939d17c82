"""Cells, their budget and cap, the command, and the tables made of its rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bench.proving import __main__ as command
from bench.proving.methods.cells import INFEASIBLE_MS, Budget, Workload, cost, names, run_all, run_cell
from bench.proving.methods.contenders import CONTENDERS, PUBLISHED, Contender
from bench.proving.reports.summary import tables
from bench.proving.simulator.figures import Figures
from bench.proving.simulator.scenario import LAPTOP, NARROW
from bench.proving.traces.stochastic import make_table

TINY = Budget(trials=3, tokens=60, report_tokens=120, search=4)


def contender(name: str) -> Contender:
    return next(one for one in CONTENDERS if one.name == name)


@pytest.fixture(scope="module")
def workload() -> Workload:
    return Workload.of(make_table("small", 6, 60), TINY)


def test_halves_are_apart_and_within_budget(workload: Workload) -> None:
    assert [script.name for script in workload.tuning] == ["small/0"]
    assert [script.name for script in workload.report] == ["small/1", "small/3"]


def test_more_steps_than_the_cap_s_are_no_bargain() -> None:
    cap = Figures(tokens=100, navs=20, seconds=9)
    quick = Figures(tokens=100, navs=21, forwards=30, seconds=1)
    assert cost(quick, contender("hsl-tuned"), cap) == 10
    assert cost(quick, contender("ours"), cap) > INFEASIBLE_MS
    assert cost(quick, contender("ours"), cap, share=2) == 10
    assert cost(quick, contender("ours-forwards"), cap, share=1.2) > INFEASIBLE_MS


def test_every_method_gives_a_row(workload: Workload) -> None:
    rows = list(run_all(workload, [LAPTOP], TINY))
    assert [row["method"] for row in rows] == names()
    assert all(row["tpt_ms"] > 0 for row in rows)
    fresh = Workload(workload.name, workload.tuning, workload.report)
    assert rows == list(run_all(fresh, [LAPTOP], TINY)), "runs in virtual time repeat exactly"
    text = list(tables(json.loads(json.dumps(rows))))
    assert len(text) == len(rows) + 4
    assert any(line.startswith(f"| {PUBLISHED} |") and "| 1.00 |" in line for line in text)


def test_the_paper_s_payload_is_left_out_where_it_takes_minutes(workload: Workload) -> None:
    rows = list(run_all(workload, [NARROW[2]], TINY))
    assert not [row for row in rows if row.get("payload") == "paper"]


def test_published_parameters_are_never_worse_on_the_tuning_half(workload: Workload) -> None:
    """Tuning begins with them."""
    same = Workload("same", workload.report, workload.report)
    for fixed, tuned in (("hsl", "hsl-tuned"), ("edgellm", "edgellm-tuned"), ("pipesd", "pipesd-tuned")):
        rows = [run_cell(contender(name), LAPTOP, same, TINY) for name in (fixed, tuned)]
        assert rows[1]["tpt_ms"] <= rows[0]["tpt_ms"]


def test_the_command_writes_rows_and_a_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["x", "--quick", "--cell", "made-up/1-laptop/pipesd", "--out", str(tmp_path)])
    command.main()
    [row] = map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())
    assert (row["scenario"], row["method"], row["payload"]) == ("1-laptop", "pipesd", "ids")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["budget"]["trials"] == 12
    assert manifest["seeds"]["varying link"] == 20
    assert manifest["versions"]["pipesd-agent"]
    assert manifest["versions"]["msgspec"] == msgspec.__version__
    assert manifest["commit"]


@pytest.mark.parametrize(("cell", "named"), [("//pipes", "pipesd"), ("x//", "made-up"), ("a/b", "WORKLOAD/SCENARIO")])
def test_a_cell_that_does_not_exist(cell: str, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["x", "--quick", "--cell", cell])
    with pytest.raises(SystemExit, match=named):
        command.main()


def test_virtual_time_needs_no_llama_cpp() -> None:
    """`make bench` and `make check` build no native code: here the import of it fails, as it does there."""
    code = "import sys; sys.modules['llama_cpp'] = None; import bench.proving.__main__, bench.proving.methods.regret"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
