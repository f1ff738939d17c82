"""docs/benchmarks.md is what `make bench-report` makes of the rows that lie beside it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from bench.proving.methods.cells import names
from bench.proving.reports import report
from bench.proving.reports.sections import Rows
from bench.proving.simulator.scenario import SCENARIOS, SWEEP


def test_rows_are_kept_rounded_and_read_again(tmp_path: Path) -> None:
    raw = tmp_path / "run"
    raw.mkdir()
    row: dict[str, Any] = {"workload": "w", "scenario": "s", "method": "m", "tpt_ms": 1 / 3, "parameters": [1 / 3]}
    (raw / "rows.jsonl").write_text(json.dumps(row) + "\n")
    (raw / "manifest.json").write_text('{"seeds": 1}')
    rows, run = report.read(raw)
    assert rows == [row | {"tpt_ms": 0.333333}]
    for folder in (tmp_path / "one", tmp_path / "two"):
        report.keep(rows, run, folder)
        assert report.read(folder) == (rows, run)
    assert (tmp_path / "one/rows.jsonl.gz").read_bytes() == (tmp_path / "two/rows.jsonl.gz").read_bytes()


def test_the_page_names_every_scenario_and_method() -> None:
    page = report.PAGE.read_text("utf-8")
    parts = re.split(r"<!-- (?:begin|end): .* -->", page)  # by hand and by the report, in turns
    by_hand, by_report = "".join(parts[::2]), "".join(parts[1::2])
    for name in (*names(), *(scenario.name for scenario in (*SCENARIOS, *SWEEP))):
        wanted = name if name in by_hand else name.removesuffix("+payload")
        assert f"`{wanted}`" in by_hand, f"docs/benchmarks.md does not say what {name} is"
        assert name in by_report


def test_the_page_is_of_the_rows_that_are_kept() -> None:
    """What the report itself plays (`of_models`) may have moved since; test_bench_calibration.py watches that."""
    kept, run = report.read(report.FOLDER)
    rows = Rows(kept)
    page = report.PAGE.read_text("utf-8")
    assert report.written(page, report.of_rows(rows, run)) == page
    assert {path.name for path in report.FOLDER.glob("*.md")} == set(report.pages(rows))
    for name, text in report.pages(rows).items():
        assert (report.FOLDER / name).read_text("utf-8") == text
    for path in report.FOLDER.iterdir():
        assert f"(benchmarks/{path.name})" in page, f"{path.name} is not linked"
