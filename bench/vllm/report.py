"""The table that bench/vllm prints: which figures, against what, with which aims."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from bench.vllm.blocks import Figures
from bench.vllm.numbers import Estimate, estimate

CLIENTS: Final = 8
Samples = dict[str, list[Figures]]
"""By block, one for each repeat."""


@dataclass(frozen=True)
class Line:
    """A line of the report: a figure of a block, perhaps against that of another, perhaps with an aim for the ratio
    (or for the figure, where there is nothing to compare with)."""

    name: str
    block: str
    figure: str
    baseline: str = ""
    aim: float | None = None


def lines(title: str, block: str, baseline: str, aims: dict[str, tuple[str, float | None]]) -> tuple[str, list[Line]]:
    """A group of lines that compare two blocks."""
    return title, [Line(name, block, figure, baseline, aim) for figure, (name, aim) in aims.items()]


STEP: dict[str, tuple[str, float | None]] = {
    "pace_ms": ("time per token, at the client", 1.05),
    "step_ms": ("step", 1.05),
    "step_work_ms": ("work of a step", 1.05),
    "api_cpu_ms_per_token": ("CPU of the API server, per token", None),
    "all_cpu_ms_per_token": ("CPU of all processes, busy waiting too, per token", None),
}
VERIFICATION: dict[str, tuple[str, float | None]] = {
    "step_ms": ("step", 1.05),
    "step_work_ms": ("work of a step", 1.05),
    "api_cpu_ms_per_token": ("CPU of the API server, per token", None),
}
SAVED: dict[str, tuple[str, float | None]] = {
    "steps_per_token": ("engine steps per token", 0.35),
    "busy_ms_per_token": ("busy time of the engine per token", 0.65),
    "work_ms_per_token": ("work of the engine per token", 0.65),
    "api_cpu_ms_per_token": ("CPU of the API server, per token", None),
    "all_cpu_ms_per_token": ("CPU of all processes, busy waiting too, per token", None),
    "wall_ms_per_token": ("wall time per token, all clients together", None),
}
OUTSIDE: dict[str, tuple[str, float | None]] = {
    "round_ms": ("from NAV to verdict", None),
    "forward_ms": ("... forward_us of its step", None),
    "others_ms": ("... the rest of that step, and steps of others", None),
    "outside_ms": ("... outside of any step", 2.0),
    "queue_ms": ("queue_us, as the verdict says", None),
    "api_cpu_round_ms": ("CPU of the API server, per round", None),
}
PARTS: dict[str, tuple[str, float | None]] = {
    "worker_execute_ms": ("worker: forward", None),
    "worker_sample_ms": ("worker: sampling", None),
    "worker_drafts_ms": ("worker: handing over its own drafts", None),
    "core_work_ms": ("engine core, all of it", None),
    "schedule_ms": ("... scheduling (wall)", None),
    "update_ms": ("... taking the tokens (wall)", None),
    "post_ms": ("... asking the worker for drafts (wall)", None),
}
GROUPS = [
    *(
        lines(f"1. Ordinary decoding, {n} at a time: plugin against stock", f"plugin-{n}", f"stock-{n}", STEP)
        for n in (1, CLIENTS)
    ),
    *(
        lines(f"2. A step that verifies 8 drafts, {n} at a time: against ngram", f"nav-{n}", f"ngram-{n}", VERIFICATION)
        for n in (1, CLIENTS)
    ),
    *(
        lines(f"3. Time of a round outside the step, {title}", block, "", OUTSIDE)
        for title, block in (
            ("1 session, 8 drafts", "nav-1"),
            (f"{CLIENTS} sessions of one agent, 8 drafts, all sent at once", f"nav-{CLIENTS}"),
            (f"{CLIENTS} sessions, 5 drafts, each on its own", "scripted"),
            (f"{CLIENTS} sessions, 5 drafts, one connection", "scripted-one"),
        )
    ),
    *(
        lines(f"4. Scripted drafts, 5 a round, 0.8 right, {CLIENTS} sessions{where}: against stock", block, base, SAVED)
        for where, block, base in (
            ("", "scripted", f"stock-{CLIENTS}"),
            (" over one connection", "scripted-one", f"stock-{CLIENTS}"),
        )
    ),
    lines(f"5. The demo draft in a live agent, {CLIENTS} clients: against stock", "live", f"stock-{CLIENTS}", SAVED),
    *(
        lines(f"Parts of a step, CPU time: {block} against {base}", block, base, PARTS)
        for block, base in (
            ("plugin-1", "stock-1"),
            (f"plugin-{CLIENTS}", f"stock-{CLIENTS}"),
            ("nav-1", "ngram-1"),
            (f"nav-{CLIENTS}", f"ngram-{CLIENTS}"),
        )
    ),
]


def wanted(block: str) -> set[str]:
    """The figures that the table has of a block."""
    return {line.figure for _, group in GROUPS for line in group if block in (line.block, line.baseline)}


def verdict(value: Estimate, aim: float) -> str:
    """Whether an aim is met, as far as the interval says."""
    if value.high <= aim:
        return f"<= {aim:g}: met"
    return f"<= {aim:g}: MISSED" if value.low > aim else f"<= {aim:g}: open"


def report(samples: Samples) -> list[dict[str, Any]]:
    """Print the table; returns its lines."""
    rows: list[dict[str, Any]] = []
    for title, group in GROUPS:
        print(f"\n{title}")
        for line in group:
            ours = [figures[line.figure] for figures in samples[line.block]]
            value = estimate(ours)
            unit = "ms" if "_ms" in line.figure else ""
            text = f"  {line.name:49}{value.median:9.3f} {unit:2} [{value.low:.3f}, {value.high:.3f}]"
            row: dict[str, Any] = {"group": title, **asdict(line), "value": asdict(value)}
            if line.baseline:
                theirs = [figures[line.figure] for figures in samples[line.baseline]]
                base = estimate(theirs)
                row["of_baseline"] = asdict(base)
                text += f"  against {base.median:.3f}"
                if base.low > 0:
                    value = estimate(ours, theirs)
                    row["ratio"] = asdict(value)
                    text += f"  x {value}"
            if line.aim is not None:
                text += f"  {verdict(value, line.aim)}"
            rows.append(row)
            print(text)
    for block, names in {
        "scripted": ("accepted", "clients_per_step", "rounds"),
        "scripted-one": ("accepted", "clients_per_step", "rounds"),
        "live": ("accepted", "drafts_per_nav", "tokens_per_session_step", "clients_per_step"),
    }.items():
        said = (f"{name} {estimate([figures[name] for figures in samples[block]])}" for name in names)
        print(f"\n{block}: {', '.join(said)}")
    return rows
