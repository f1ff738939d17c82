"""How far virtual and real time agree: ratios of cells over repeats, as rows and as docs/benchmarks_real.md."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from bench.proving.real.cells import CELLS, Cell, Costs
from bench.proving.simulator.figures import Figures

AGREES: Final = 0.05
"""Share of the virtual time that the real one may be off by."""
LEAST_CELLS: Final = 6
COMPARED: Final = (
    "tpt_ms",
    "navs_per_token",
    "forwards_per_token",
    "drafted_per_token",
    "sent_per_token",
    "accepted_per_token",
    "bytes_up_per_token",
    "bytes_down_per_token",
)


PAGE: Final = """\
# Virtual against real time

Made by `make bench-real`, or by the command at the end; do not edit.

What the proving ground says in virtual time is here played once more by the
real parts: the gateway with the demo target (F32), the link emulator and the agent with the demo drafter (F16), over
TCP on the loopback. Floors are slept: the agent's drafter takes the scenario's time for each token
(`bench/proving/real/slow_agent.py`), the gateway's step that of the target (`--step-floor-ms`).

**{agree} of {cells} cells agree within {share:g} %**; the largest difference is {off:+.1f} %, of {worst}. Medians of
{repeats} repeats of the same {answers} answers of each recorded table; their texts are {texts} the tables'.

{table}

* **Cell**: table/scenario/method. *dual*: r1 = 0.1, r2 = 0.2, a message for each token; *fixed*: a NAV every 6 drafts;
  *fixed-single*: the same in one message; window 16; all with one token of free run at the start.
* **TPT**: from the request at the agent until the answer's last message is there, over output tokens, the target's own
  included; in real time by the agent's own record of the request.
* **Charged** in virtual time: the floors and delays, and what the parts themselves need on this machine, measured once
  before the cells on a link without delay, and the same for all of them: {draft_ms:.2f} ms a draft, {step_ms:.2f} ms
  a step (from one to the next when the target goes on alone), {handling_ms:.2f} ms from a message to its verdict beyond
  such a step (half each way). *Without costs*: the bare floors and delays.
* **Not charged**: {opening_ms:.1f} ms a request (HTTP, chat template, tokens), and the prompts' prefill: both ends have
  the prompt in their caches, from the same request for four tokens just before.
* **Control plane**: on both sides the agent's own controller, which measures as it goes: what it knows of the link
  (when to send), and how sure it takes a draft to be. The tuner is off, so that thresholds stay.
* **Other than in `make bench`**: a step takes one time whatever its rows (20 ms; 50 on the fast edge), and messages
  have their WebSocket headers but none of TCP and IP, since the emulator carries bytes.
* Cells of the bench that were not played in this run: {missing}.
* `{command}`: {cores} cores, {minutes:.0f} minutes, load average {load:.1f} at the end.
"""


@dataclass(frozen=True)
class Run:
    """One repeat of a cell: sums over the same answers in real time, in virtual time (this machine's costs charged),
    and in virtual time without them. same_text: every answer was the table's."""

    cell: Cell
    repeat: int
    real: Figures
    virtual: Figures
    bare: Figures
    same_text: bool = True

    @property
    def ratio(self) -> float:
        """Real to virtual time per token."""
        return self.real.tpt_ms / self.virtual.tpt_ms

    def row(self) -> dict[str, Any]:
        """For JSONL."""
        kinds = {"real": self.real, "virtual": self.virtual, "bare": self.bare}
        return {
            "cell": self.cell.name,
            "repeat": self.repeat,
            "answers": self.real.answers,
            "tokens": self.real.tokens,
            "same_text": self.same_text,
            "ratio": round(self.ratio, 5),
            **{kind: _compared(figures) for kind, figures in kinds.items()},
        }


def _compared(figures: Figures) -> dict[str, float]:
    row = figures.row()
    return {name: round(row[name], 4) for name in COMPARED}


@dataclass(frozen=True)
class Agreement:
    """Of one cell: medians over its repeats; least and most: of the ratio."""

    cell: Cell
    repeats: int
    ratio: float
    least: float
    most: float
    bare: float
    real: dict[str, float]
    virtual: dict[str, float]
    same_text: bool

    @property
    def agrees(self) -> bool:
        return self.same_text and abs(self.ratio - 1) <= AGREES


def agreement(runs: Sequence[Run]) -> Agreement:
    """runs: the repeats of one cell, at least one."""
    ratios = [run.ratio for run in runs]
    real, virtual = (
        {name: statistics.median(figures.row()[name] for figures in kind) for name in COMPARED}
        for kind in ([run.real for run in runs], [run.virtual for run in runs])
    )
    return Agreement(
        cell=runs[0].cell,
        repeats=len(runs),
        ratio=statistics.median(ratios),
        least=min(ratios),
        most=max(ratios),
        bare=statistics.median(run.real.tpt_ms / run.bare.tpt_ms for run in runs),
        real=real,
        virtual=virtual,
        same_text=all(run.same_text for run in runs),
    )


def agreements(runs: Sequence[Run]) -> list[Agreement]:
    """Of all cells, in the order of their first runs."""
    cells = list(dict.fromkeys(run.cell for run in runs))
    return [agreement([run for run in runs if run.cell == cell]) for cell in cells]


def enough(found: Sequence[Agreement]) -> bool:
    """Do at least `LEAST_CELLS` agree, and is every text the table's?"""
    return sum(cell.agrees for cell in found) >= LEAST_CELLS and all(cell.same_text for cell in found)


def table(found: Sequence[Agreement]) -> list[str]:
    """Lines of Markdown."""
    lines = [
        "| cell | TPT real, ms | TPT virtual, ms | real / virtual | least - most | / without costs | NAVs per token, "
        "real and virtual | forwards per token, real and virtual | bytes up per token, real and virtual |",
        "|" + "---|" * 9,
    ]
    for cell in found:
        real, virtual = cell.real, cell.virtual
        pairs = " | ".join(
            f"{real[name]:{form}}, {virtual[name]:{form}}"
            for name, form in (("navs_per_token", ".3f"), ("forwards_per_token", ".3f"), ("bytes_up_per_token", ".0f"))
        )
        mark = "" if cell.agrees else " (!)" if cell.same_text else " (another text!)"
        lines.append(
            f"| {cell.cell.name} | {real['tpt_ms']:.1f} | {virtual['tpt_ms']:.1f} | {cell.ratio:.3f}{mark} | "
            f"{cell.least:.3f} - {cell.most:.3f} | {cell.bare:.3f} | {pairs} |"
        )
    return lines


def page(found: Sequence[Agreement], costs: Costs, facts: dict[str, Any]) -> str:
    """docs/benchmarks_real.md. facts: answers (of each cell), command, cores, minutes, load."""
    agree = sum(cell.agrees for cell in found)
    worst = max(found, key=lambda cell: abs(cell.ratio - 1))
    played = {cell.cell for cell in found}
    missing = ", ".join(cell.name for cell in CELLS if cell not in played) or "none"
    charged = costs.row()
    texts = "all" if all(cell.same_text for cell in found) else "NOT all"
    return PAGE.format(
        agree=agree,
        cells=len(found),
        share=100 * AGREES,
        off=100 * (worst.ratio - 1),
        worst=worst.cell.name,
        repeats=found[0].repeats,
        texts=texts,
        missing=missing,
        table="\n".join(table(found)),
        **charged,
        **facts,
    )
