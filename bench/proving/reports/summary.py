"""Rows as tables: `python -m bench.proving.reports.summary DIR/rows.jsonl`."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bench.proving.methods.contenders import PUBLISHED
from bench.proving.reports.report import rows_in

COLUMNS = {
    "NAV/tok": "navs_per_token",
    "fwd/tok": "forwards_per_token",
    "draft": "mean_draft",
    "acc": "acceptance",
    "sent/tok": "sent_per_token",
    "TTFT": "ttft_ms",
}


def tables(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Lines of Markdown: per workload and scenario, methods by TPT; ratio: to PipeSD as published (with payload)."""
    cells: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        cells[row["workload"], row["scenario"]].append(row)
    for (workload, scenario), methods in cells.items():
        published = next((row["tpt_ms"] for row in methods if row["method"] == PUBLISHED), None)
        yield f"## {workload}, {scenario}"
        yield f"| method | TPT ms | ratio | {' | '.join(COLUMNS)} | parameters |"
        yield "|" + "---|" * (4 + len(COLUMNS))
        for row in sorted(methods, key=lambda row: float(row["tpt_ms"])):
            ratio = f"{row['tpt_ms'] / published:.2f}" if published else "-"
            figures = " | ".join(f"{row[key]:.3g}" if key in row else "-" for key in COLUMNS.values())
            over = "" if row.get("within_cap", True) else " (over the cap)"
            point = ", ".join(f"{x:.3g}" if isinstance(x, float) else str(x) for x in row.get("parameters", []))
            yield f"| {row['method']}{over} | {row['tpt_ms']:.1f} | {ratio} | {figures} | {point} |"
        yield ""


def main() -> None:
    for path in sys.argv[1:]:
        for line in tables(rows_in(Path(path).read_bytes())):
            print(line)


if __name__ == "__main__":
    main()
