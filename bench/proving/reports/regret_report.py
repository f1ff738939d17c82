"""The tuner's part of docs/benchmarks.md and its figure: `python -m bench.proving.reports.regret_report [DIR]`.

From what `bench.proving.methods.regret` left in DIR, or from what is kept beside the page; keeps it there.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.markdown import markdown
from bench.page import between
from bench.proving.methods.regret import BUDGET, CHECKS, LONG
from bench.proving.reports.report import FOLDER, PAGE, rounded, rows_in

Row = dict[str, Any]
Cell = tuple[str, str, float]
"""Workload, scenario, price of a NAV in ms."""
FILE: Final = "regret.jsonl"
PART: Final = "regret"
BAND: Final = (10, 90)
"""Percentiles over seeds."""
COLOURS: Final = {"ours": "#1f6fb2", "grid": "#b8860b", "random": "#8c8c8c", "BO": "#c0392b"}
TICKS: Final = (250, 500, 1000, 2000, 5000)
DRAWN: Final = 4
"""Settings in the figure: the first ones."""


def read(folder: Path) -> list[Row]:
    """Rows of a run, or those that are kept."""
    raw, kept = folder / FILE, folder / f"{FILE}.gz"
    text = raw.read_bytes() if raw.exists() else gzip.decompress(kept.read_bytes())
    rows = rounded(rows_in(text))
    for row in rows:
        for key in ("simple", "cumulative", "best", "pair"):
            if key in row:
                row[key] = [round(value, 5) for value in row[key]]
    return rows


def keep(rows: Iterable[Row], folder: Path) -> None:
    """Equal rows give equal bytes."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"{FILE}.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


def by_cell(rows: Iterable[Row]) -> dict[Cell, dict[str, list[Row]]]:
    """Runs by setting, then by method, in the order of the rows."""
    cells: dict[Cell, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        cells[row["workload"], row["scenario"], row["price_ms"]][row["method"]].append(row)
    return cells


def at(rows: Iterable[Row], what: str, tokens: int) -> list[float]:
    """`simple` or `cumulative` at a check, of the runs that went so far."""
    return [row[what][row["checks"].index(tokens)] for row in rows if tokens in row["checks"]]


def name(cell: Cell) -> str:
    workload, scenario, price = cell
    return f"{workload}, {scenario}" + (f", {price:g} ms a NAV" if price else "")


def section(rows: Iterable[Row]) -> str:
    """Both tables."""
    cells = by_cell(rows)
    methods = list(dict.fromkeys(method for runs in cells.values() for method in runs))
    compared = []
    for cell, runs in cells.items():
        pair = runs["ours"][0]["best"]
        line = [name(cell), f"{pair[0]:.2f}, {pair[1]:.2f}"]
        for method in methods:
            simple, cumulative = (at(runs[method], what, BUDGET) for what in ("simple", "cumulative"))
            line.append(f"{_percent(np.median(simple))} ({_percent(np.median(cumulative))})" if simple else "")
        compared.append(line)
    own = []
    for cell, runs in cells.items():
        rest = [row for row in runs["ours"] if LONG in row["checks"]]
        short = [_percent(np.median(at(runs["ours"], "simple", tokens))) for tokens in (500, 1000, BUDGET)]
        worst = _percent(max(at(runs["ours"], "simple", BUDGET)))
        line = [name(cell), *short, worst]
        if rest:
            explored = [max(row[key] for row in rest) for key in ("explored", "explored_in_truth")]
            whole = max(at(rest, "cumulative", LONG))
            busy = [1000 * row["study_cpu_s"] / LONG * 1000 for row in rest]
            counts = [np.median([row[key] for row in rest]) for key in ("studies", "trials", "changes")]
            line += [_percent(explored[0]), _percent(explored[1]), _percent(whole), f"{np.median(busy):.1f}"]
            line += [f"{count:.0f}" for count in counts]
        else:
            line += [""] * 7
        own.append(line)
    head = ["ours, regret after", "500 tokens", "1,000", f"{BUDGET:,}", "worst seed", "trials cost", "in truth"]
    head += ["all it cost", "CPU ms / 1,000 tokens", "studies", "trials", "changes"]
    return (
        markdown([f"regret after {BUDGET:,} tokens (all it cost)", "best pair", *methods], compared, left=2)
        + "\n\n"
        + markdown(head, own)
    )


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def draw(rows: Iterable[Row], path: Path) -> None:
    """Medians with bands: above, the pair that each would settle for; below, all that was spent."""
    import matplotlib
    from matplotlib.figure import Figure

    from bench.proving.reports.plots import STYLE

    cells = list(by_cell(rows).items())[:DRAWN]
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(10, 5.2))
        panels = figure.subplots(2, len(cells), sharex=True, sharey="row", squeeze=False)
        for column, (cell, runs) in zip(panels.T, cells, strict=True):
            for axes, what in zip(column, ("simple", "cumulative"), strict=True):
                for method, colour in COLOURS.items():
                    checks = [check for check in CHECKS if check <= BUDGET and at(runs[method], what, check)]
                    curves = [100 * np.array(at(runs[method], what, check)) for check in checks]
                    axes.plot(checks, [np.median(one) for one in curves], color=colour, label=method, linewidth=1.4)
                    low, high = (_band(curves, percentile) for percentile in BAND)
                    axes.fill_between(checks, low, high, color=colour, alpha=0.15, linewidth=0)
                axes.set_xscale("log")
                axes.set_xticks(TICKS, [f"{tokens:,}" for tokens in TICKS])
                axes.set_xticks([], minor=True)
            column[0].set_title(name(cell), fontsize=8)
            column[0].set_ylim(-3, 60)
            column[1].set_ylim(-3, 60)
            column[1].set_xlabel("output tokens")
        panels[0][0].set_ylabel("regret of the pair settled for, %")
        panels[1][0].set_ylabel("of all that was spent, %")
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, ncols=len(labels), loc="lower center", bbox_to_anchor=(0.5, 0.97))
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None, "Creator": None}, bbox_inches="tight")


def _band(curves: Sequence[Any], percentile: float) -> list[float]:
    return [float(np.percentile(one, percentile)) for one in curves]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", default=FOLDER, metavar="DIR")
    args = parser.parse_args()
    rows = read(args.run)
    keep(rows, FOLDER)
    PAGE.write_text(between(PAGE.read_text("utf-8"), PART, section(rows)), encoding="utf-8")
    draw(rows, FOLDER / "regret.svg")


if __name__ == "__main__":
    main()
