"""docs/benchmarks.md and its figures: `python -m bench.proving.reports.report [DIR]`.

DIR holds a run's rows.jsonl and manifest.json (`python -m bench.proving --out DIR`); they are kept, rounded, beside the
page. Without DIR the page is made again from those.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from bench.page import between
from bench.proving.methods import triggers
from bench.proving.reports import compared, sections
from bench.proving.reports.sections import Row, Rows
from bench.proving.traces.all_tables import MADE, made_up
from bench.proving.traces.recorded import PAIRS, table_name
from bench.proving.traces.workloads import REAL

DOCS: Final = Path(__file__).resolve().parents[3] / "docs"
PAGE: Final = DOCS / "benchmarks.md"
FOLDER: Final = DOCS / "benchmarks"
DIGITS: Final = 6
"""Significant, of what is kept."""
REAL_TABLES: Final = [table_name(REAL, temperature) for temperature in PAIRS["real"].temperatures]
DRAWN: Final = 8
"""Answers that the frontier is played on."""


def rounded(rows: Iterable[Row]) -> list[Row]:
    """What is kept of a run's rows."""

    def short(value: Any) -> Any:
        return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value

    return [{key: short(value) for key, value in row.items()} for row in rows]


def rows_in(text: bytes) -> Iterator[Row]:
    """The rows of a run's rows.jsonl, one a line."""
    return (json.loads(line) for line in text.split(b"\n") if line)


def read(folder: Path) -> tuple[list[Row], dict[str, Any]]:
    """Rows and manifest of a run, or of the one that is kept."""
    raw, kept = folder / "rows.jsonl", folder / "rows.jsonl.gz"
    text = raw.read_bytes() if raw.exists() else gzip.decompress(kept.read_bytes())
    return rounded(rows_in(text)), json.loads((folder / "manifest.json").read_text("utf-8"))


def keep(rows: list[Row], run: dict[str, Any], folder: Path) -> None:
    """Equal rows give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    (folder / "manifest.json").write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")


def of_rows(rows: Rows, run: dict[str, Any]) -> dict[str, str]:
    """Parts of the page, by the names of their markers: what is in the run."""
    return {
        **{f"matrix-{name}": sections.matrix(rows, name) for name in REAL_TABLES},
        "cloud-only": sections.cloud_only(rows),
        "tuned": sections.tuned(rows),
        "best-causal": sections.best_causal(rows),
        "equal-navs": sections.equal_navs(rows),
        "matrix": sections.matrix(rows, MADE),
        "schedules": sections.schedules(rows),
        "triggers": triggers.section(rows.cells),
        "manifest": sections.manifest(run),
    }


def of_models() -> dict[str, str]:
    """And what is played now, within seconds."""
    return {
        "kinds": compared.kinds(),
        "calibration": compared.calibrated(),
        "paper": compared.papers_tables(),
        "uplinks": compared.uplinks(),
        "fixed": compared.fixed_thresholds(),
        "links": compared.links(),
    }


def pages(rows: Rows) -> dict[str, str]:
    """All figures, by file name."""
    return {f"{workload}.md": sections.page(rows, workload) for workload in rows.workloads}


def written(page: str, parts: dict[str, str]) -> str:
    """The page with these parts made anew."""
    for name, text in parts.items():
        page = between(page, name, text)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", default=FOLDER, metavar="DIR")
    args = parser.parse_args()
    kept, run = read(args.run)
    rows = Rows(kept)
    keep(kept, run, FOLDER)
    PAGE.write_text(written(PAGE.read_text("utf-8"), of_rows(rows, run) | of_models()), encoding="utf-8")
    for name, text in pages(rows).items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    # Late: matplotlib takes a second to load, and only the figures need it.
    from bench.proving.reports.plots import draw_all
    from bench.proving.simulator.script import Script

    traces = made_up().halves()[1].traces[:DRAWN]
    draw_all(rows, [Script(trace) for trace in traces], FOLDER)


if __name__ == "__main__":
    main()
