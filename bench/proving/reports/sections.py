"""The tables of docs/benchmarks.md from the rows of a run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from bench.markdown import markdown, ms
from bench.proving.methods.calibration import SWEEP_MS, TABLE_1_MS, TABLE_6_MS
from bench.proving.methods.cells import names
from bench.proving.methods.contenders import PUBLISHED
from bench.proving.methods.schedules import NAME as SCHEDULES
from bench.proving.simulator.scenario import PAPER, SWEEP
from bench.proving.traces.all_tables import MADE
from pipesd_agent.control.batchers import BATCHERS

Row = dict[str, Any]
COLUMNS: Final = {
    "TTFT ms": "ttft_ms",
    "NAVs": "navs_per_token",
    "forwards": "forwards_per_token",
    "target busy ms": "busy_ms_per_token",
    "drafted": "drafted_per_token",
    "sent": "sent_per_token",
    "accepted": "accepted_per_token",
    "bytes up": "bytes_up_per_token",
    "bytes down": "bytes_down_per_token",
    "rollbacks / NAV": "rollbacks_per_nav",
}
DRAFTLESS: Final = ("cloud-only", "edge-only", "ours-fastest")
"""Not a way of splitting the work; `ours-fastest` may leave all of it to the target."""
BOUNDS: Final = ("best-causal", "clairvoyant", "clairvoyant-runs")
EQUAL: Final = 0.02
"""Less of a difference than this is none."""
ALL: Final = 0.99
"""Forwards per token beyond which the target wrote the answer by itself."""


class Rows:
    """rows: as `python -m bench.proving` writes them."""

    def __init__(self, rows: Iterable[Row]) -> None:
        rows = list(rows)
        self.cells: dict[tuple[str, str, str], Row] = {
            (row["workload"], row["scenario"], row["method"]): row for row in rows if "table" not in row
        }
        self.others = [row for row in rows if "table" in row]
        """Of comparisons with a table of their own."""
        self.workloads = list(dict.fromkeys(key[0] for key in self.cells))

    def scenarios(self, workload: str) -> list[str]:
        return list(dict.fromkeys(key[1] for key in self.cells if key[0] == workload))

    def methods(self, workload: str, scenario: str) -> list[Row]:
        """In the order of `names()`."""
        return [self.cells[workload, scenario, name] for name in names() if (workload, scenario, name) in self.cells]

    def tpt(self, workload: str, scenario: str, method: str) -> float | None:
        row = self.cells.get((workload, scenario, method))
        return None if row is None else float(row["tpt_ms"])


def paper_ms(scenario: str, method: str) -> float | None:
    """What the paper has for this cell, if anything. Vanilla drafts 6 in table 1; the sweep's is compared with 8."""
    name = method.removesuffix("+payload")
    if name == method:
        return None
    for one, papers in zip(PAPER, TABLE_1_MS, strict=True):
        if scenario == one.name:
            ablation = TABLE_6_MS.get(name) if one is PAPER[0] else None
            return papers.get({"vanilla-6": "vanilla"}.get(name, name), ablation)
    for one, papers in zip(SWEEP, SWEEP_MS.values(), strict=True):
        if scenario == one.name:
            return papers.get({"vanilla-8": "vanilla"}.get(name, name))
    return None


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _over(row: Row) -> str:
    return "" if row.get("within_cap", True) else "*"


def matrix(rows: Rows, workload: str) -> str:
    """TPT of every method in every scenario."""
    scenarios = rows.scenarios(workload)
    body = []
    for name in names():
        cells = [rows.cells.get((workload, scenario, name)) for scenario in scenarios]
        if any(cells):
            body.append([name, *("" if row is None else ms(row["tpt_ms"]) + _over(row) for row in cells)])
    return markdown(["TPT, ms", *scenarios], body)


def page(rows: Rows, workload: str) -> str:
    """All figures of a workload, a table for each scenario."""
    parts = [
        f"# All methods on {workload}",
        "Written by `make bench-report`. Words, methods and scenarios: [benchmarks.md](../benchmarks.md). Counts, "
        "bytes and busy time are per output token; ratio: of the TPT to that of `pipesd+payload`; *: over its cap.",
    ]
    for scenario in rows.scenarios(workload):
        published = rows.tpt(workload, scenario, PUBLISHED)
        body = []
        for row in sorted(rows.methods(workload, scenario), key=lambda row: float(row["tpt_ms"])):
            paper = paper_ms(scenario, row["method"]) if workload == MADE else None
            point = ", ".join(f"{x:.3g}" if isinstance(x, float) else str(x) for x in row.get("parameters", []))
            body.append(
                [
                    row["method"] + _over(row),
                    ms(row["tpt_ms"]),
                    "" if paper is None else f"{paper:g}",
                    f"{row['tpt_ms'] / published:.2f}" if published else "",
                    *(_number(row.get(key)) for key in COLUMNS.values()),
                    point,
                ]
            )
        head = ["method", "TPT ms", "paper", "ratio", *COLUMNS, "parameters"]
        parts += [f"## {scenario}", markdown(head, body)]
    return "\n\n".join(parts) + "\n"


def cloud_only(rows: Rows) -> str:
    """Who is faster: the target alone, or the fastest way of drafting for it? Beside that, PipeSD and ours."""
    body = []
    for workload in rows.workloads:
        for scenario in rows.scenarios(workload):
            split = [
                row
                for row in rows.methods(workload, scenario)
                if row["method"] not in (*DRAFTLESS, *BOUNDS) and row["payload"] == "ids"
            ]
            cloud = rows.tpt(workload, scenario, "cloud-only")
            if cloud is None or not split or scenario in {one.name for one in SWEEP}:
                continue
            best = min(split, key=lambda row: float(row["tpt_ms"]))
            two = [rows.cells.get((workload, scenario, name)) for name in ("pipesd", "ours-forwards")]
            cells = [f"{workload}, {scenario}", _faster(cloud, best), ms(cloud), best["method"]]
            for row in (best, *two):
                cells += ["", ""] if row is None else [ms(row["tpt_ms"]) + _over(row), _forwards(row)]
            body.append(cells)
    head = ["workload, scenario", "faster", "cloud-only, ms", "fastest with drafts", "ms", "forwards", "pipesd, ms"]
    return markdown([*head, "forwards", "ours-forwards, ms", "forwards"], body, left=2)


def best_causal(rows: Rows) -> str:
    """Where the best causal policy was found, and how far the contenders and families at its cap are above it."""
    body = []
    for workload in rows.workloads:
        for scenario in rows.scenarios(workload):
            best = rows.cells.get((workload, scenario, "best-causal"))
            if best is None or "families" not in best or scenario in {one.name for one in SWEEP}:
                continue
            families: dict[str, float] = best["families"]
            ours = min((ms for name, ms in families.items() if name.startswith("ours")), default=None)
            others = min((ms for name, ms in families.items() if not name.startswith("ours")), default=None)
            tuned = rows.cells.get((workload, scenario, "ours-forwards"))
            above = "" if tuned is None else f"{tuned['tpt_ms'] / best['tpt_ms']:.2f}{_over(tuned)}"
            body.append(
                [
                    f"{workload}, {scenario}",
                    ", ".join(f"{x:.3g}" if isinstance(x, float) else str(x) for x in best["parameters"]),
                    ms(best["tpt_ms"]) + _over(best),
                    _forwards(best),
                    *("" if one is None else f"{one / best['tpt_ms']:.2f}" for one in (ours, others)),
                    above,
                ]
            )
    head = ["workload, scenario", "the best", "ms", "forwards", "best of ours", "best of the others", "ours-forwards"]
    return markdown(head, body, left=2)


def equal_navs(rows: Rows) -> str:
    """Ours beside the fastest of the published methods, with token ids only, at no more NAVs for a token than PipeSD
    with the authors' thresholds has. A method that goes by a probability the tables lack is none of them."""
    body = []
    for workload in rows.workloads:
        for scenario in rows.scenarios(workload):
            pipesd = rows.cells.get((workload, scenario, "pipesd"))
            if pipesd is None or scenario in {one.name for one in SWEEP}:
                continue
            rivals = [
                row
                for row in rows.methods(workload, scenario)
                if row.get("payload") == "ids"
                and not row["method"].startswith(("ours", *DRAFTLESS, *BOUNDS))
                and row["navs_per_token"] <= pipesd["navs_per_token"]
            ]
            best = min(rivals, key=lambda row: float(row["tpt_ms"]))
            cells = [f"{workload}, {scenario}", best["method"], ms(best["tpt_ms"]), f"{best['navs_per_token']:.3f}"]
            for name in ("ours", "ours-forwards"):
                row = rows.cells.get((workload, scenario, name))
                if row is None:
                    cells += ["", "", ""]
                    continue
                ratio = f"{row['tpt_ms'] / best['tpt_ms']:.2f}"
                cells += [ms(row["tpt_ms"]) + _over(row), f"{row['navs_per_token']:.3f}", ratio]
            body.append(cells)
    head = ["workload, scenario", "best of the others", "ms", "NAVs", "ours, ms", "NAVs", "ratio"]
    return markdown([*head, "ours-forwards, ms", "NAVs", "ratio"], body, left=2)


def _forwards(row: Row) -> str:
    return f"{row['forwards_per_token']:.3f}"


def _faster(cloud_ms: float, best: Row) -> str:
    if best["forwards_per_token"] > ALL:
        return "the same: nothing is drafted"
    if abs(best["tpt_ms"] / cloud_ms - 1) < EQUAL:
        return "equal"
    return "**cloud-only**" if cloud_ms < best["tpt_ms"] else "drafting"


def tuned(rows: Rows) -> str:
    """After tuning, per scenario: ours under each cap, PipeSD with its payload and without, and the bounds."""
    methods = ["pipesd+payload", "pipesd-tuned+payload", "pipesd", "pipesd-tuned", "ours", "ours-forwards"]
    methods += ["ours+payload", *BOUNDS]
    body = []
    for name in methods:
        cells = []
        for scenario in PAPER:
            row = rows.cells.get((MADE, scenario.name, name))
            published = rows.tpt(MADE, scenario.name, PUBLISHED)
            if row is None or published is None:
                cells += ["", ""]
                continue
            counts = _forwards(row) if "forwards_per_token" in row else ""
            cells += [f"{row['tpt_ms']:.1f}{_over(row)} ({row['tpt_ms'] / published:.2f})", counts]
        body.append([name, *cells])
    head = ["TPT ms (ratio to pipesd+payload)"]
    for scenario in PAPER:
        head += [scenario.name, "forwards"]
    return markdown(head, body)


def manifest(run: dict[str, Any]) -> str:
    """Seeds, versions, budgets and the text's parameters; the scenarios are in the file itself."""
    short = {key: value for key, value in run.items() if key not in ("scenarios", "workloads", "command", "seconds")}
    return "```json\n" + json.dumps(short, indent=1) + "\n```"


def schedules(rows: Rows) -> str:
    """The batchers on each uplink: TPT, ratio to sending each token at once, NAVs and messages per output token."""
    lines: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows.others:
        if row["table"] == SCHEDULES:
            lines.setdefault((row["workload"], row["thresholds"], row["scenario"]), {})[row["method"]] = row
    body = []
    for (workload, thresholds, scenario), by in lines.items():
        alpha, beta, gamma = (cost / 1000 for cost in by["dp"]["costs_us"])
        cells = [f"{workload}, {thresholds}", scenario, f"{alpha:.3g}, {beta:.2g}, {gamma:g}"]
        cells += [f"{by['immediate']['tpt_ms']:.1f}"]
        cells += [f"{by[name]['tpt_ms'] / by['immediate']['tpt_ms']:.3f}" for name in BATCHERS if name != "immediate"]
        cells += [" / ".join(f"{by[name]['navs_per_token']:.3f}" for name in BATCHERS)]
        cells += [" / ".join(f"{by[name]['messages_per_token']:.2f}" for name in BATCHERS)]
        body.append([*cells, str(by["dp"]["n_hat"])])
    head = ["workload, thresholds", "uplink", "alpha, beta, gamma, ms", "immediate, ms", *BATCHERS[1:]]
    order = ", ".join(BATCHERS)
    return markdown([*head, f"NAVs: {order}", "messages", "N-hat"], body, left=3)
