"""The readable summary of a run."""

from __future__ import annotations

from collections.abc import Sequence

from bench.gpu.machine import Machine
from bench.gpu.part import FAILED, OUT_OF_TIME, Outcome


def summary(machine: Machine, outcomes: Sequence[Outcome]) -> str:
    """The machine, a line for each part, the lines that a part has under "lines" among its figures, and the reasons."""
    gpu = ", ".join(machine.gpu.values()) or "no GPU"
    versions = ", ".join(f"{name} {number}" for name, number in machine.versions.items())
    text = [f"{machine.time}  {gpu}", versions, f"commit {machine.commit or 'unknown'}, {machine.cores} cores", ""]
    width = max((len(outcome.name) for outcome in outcomes), default=0)
    for outcome in outcomes:
        text.append(f"{outcome.name:{width}}  {outcome.state:11} {outcome.seconds:5.0f} s  {outcome.what}")
        text += [f"{'':{width}}  {line}" for line in [line for line in outcome.said.split("\n") if line][-12:]]
        text += [f"{'':{width}}    {line}" for line in outcome.figures.get("lines", ())]
    return "\n".join(text) + "\n"


def succeeded(outcomes: Sequence[Outcome]) -> bool:
    """Whether nothing that ran has failed. What was skipped has not."""
    return not any(outcome.state in (FAILED, OUT_OF_TIME) for outcome in outcomes)
