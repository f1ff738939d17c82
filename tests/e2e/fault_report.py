"""What a run of a fault suite came to: its judgement, and the figures for docs/reliability.md."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from fault_clients import End, Request
from fault_plan import ANSWER_S, DETECTION_S, GRACE_S, OF_CLIENTS, Happened, Kind, bound_s
from harness import ROOT
from relay import Sent

from bench.page import between

REPORT: Final = ROOT / "docs" / "reliability.md"
SHOWN_ENDS: Final = (End.RIGHT, End.ERROR, End.FALLBACK, End.BROKEN)
SHOWN: Final = 5
"""Failures that are told in full."""


@dataclass(frozen=True)
class Uploads:
    """Of agents: sessions resumed after a lost link; requests asked again, because the gateway did not know them or its
    answer was lost."""

    resumed: int
    reopened: int

    @staticmethod
    def of(sent: Iterable[Sent]) -> Uploads:
        opened: Counter[str] = Counter()
        resumed = 0
        for each in sent:
            resumed += each.kind == "resume"
            if each.kind == "open" and each.message is not None:
                opened[each.message.request_id] += 1  # type: ignore[union-attr]
        return Uploads(resumed, sum(count - 1 for count in opened.values()))


@dataclass(frozen=True)
class Judged:
    """A request and its end; wrong: why it must not have ended so."""

    request: Request
    end: End | None
    wrong: str
    bound_s: float
    met: frozenset[Kind]

    @property
    def gravest(self) -> Kind | None:
        return max(self.met, key=list(Kind).index, default=None)


@dataclass(frozen=True)
class Run:
    """What happened. killed: see `Request.judge`."""

    seed: int
    requests: Sequence[Request]
    happened: Sequence[Happened]
    killed: Callable[[int, float, float], bool]

    @cached_property
    def judged(self) -> list[Judged]:
        return [self._judge(request) for request in self.requests]

    def check(self) -> None:
        """Raises AssertionError, with the first few, if any request ended as it must not."""
        wrong = [judged for judged in self.judged if judged.wrong]
        for judged in wrong[:SHOWN]:
            print(f"{judged.wrong}\n  met {sorted(judged.met)}\n  {judged.request}\n")
        assert not wrong, f"{len(wrong)} of {len(self.judged)} requests ended wrongly, the first: {wrong[0].wrong}"

    def count(self, end: End, met: Kind | None = None) -> int:
        return sum(judged.end is end and met in (None, *judged.met) for judged in self.judged)

    def _judge(self, request: Request) -> Judged:
        bound = bound_s(request.agent, request.began, request.ended, self.happened) + request.idle_s
        met = frozenset(f.kind for f in self.happened if f.meets(request.agent, request.began, request.ended))
        end, wrong = None, ""
        try:
            end = request.judge(self.killed)
            assert request.seconds < bound, f"took {request.seconds:.1f} s; its bound was {bound:.1f} s"
        except AssertionError as error:
            wrong = str(error) or f"an error that is not OpenAI-shaped: {request.error}"
        return Judged(request, end, wrong, bound, met)


def outcomes(run: Run) -> str:
    """As a table: by kind of fault, and all together."""
    rows = [
        "| fault | times | requests that met it | right | error | draft model, labelled | broken off with their agent "
        "| longest pause in a stream that was right, s |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    times = Counter(fault.kind for fault in run.happened)
    for kind in (kind for kind in Kind if times[kind]):
        if kind in OF_CLIENTS:
            rows.append(f"| {kind} | {times[kind]} | | | | | | |")
            continue
        met = [judged for judged in run.judged if kind in judged.met and judged.end is not End.LEFT]
        ends = " | ".join(str(sum(judged.end is end for judged in met)) for end in SHOWN_ENDS)
        gravest = [judged for judged in met if judged.end is End.RIGHT and judged.gravest is kind]
        pause = f"{max(judged.request.pause_s for judged in gravest):.1f}" if gravest else ""
        rows.append(f"| {kind} | {times[kind]} | {len(met)} | {ends} | {pause} |")
    stayed = [judged for judged in run.judged if judged.end is not End.LEFT]
    for name, count, met in (
        ("none", "", [judged for judged in stayed if not judged.met]),
        ("**all**", f"**{times.total()}**", stayed),
    ):
        ends = " | ".join(str(sum(judged.end is end for judged in met)) for end in SHOWN_ENDS)
        rows.append(f"| {name} | {count} | {len(met)} | {ends} | |")
    return "\n".join(rows)


def ends(run: Run, uploads: Uploads) -> str:
    """The sentences under the table."""
    slowest = max(run.judged, key=lambda judged: judged.request.seconds)
    nearest = max(run.judged, key=lambda judged: judged.request.seconds / judged.bound_s)
    return (
        f"Seed {run.seed}. A request that meets several faults counts in several rows, its longest pause in the lowest "
        f"of them only. {run.count(End.LEFT)} clients left before their answer. "
        f"Slowest end: {slowest.request.seconds:.1f} s, with a bound of {slowest.bound_s:.1f} s; nearest to its bound: "
        f"{nearest.request.seconds:.1f} of {nearest.bound_s:.1f} s. Wrong: 0, retracted: 0, without an end: 0. "
        f"Sessions resumed: {uploads.resumed}; requests asked again, of a gateway that did not know them or whose "
        f"answer was lost: {uploads.reopened}."
    )


def bounds() -> str:
    return (
        f"{ANSWER_S:g} s for the answer, 6 s to connect, and for each fault that it meets {DETECTION_S:g} s to notice "
        f"and {GRACE_S} s of grace (3 s where the loss shows at once)"
    )


def write(name: str, text: str) -> None:
    """Print figures; with WRITE_REPORT=1 also put them between their markers in docs/reliability.md.

    (A variable that begins with PIPESD_ and that they do not know is an error to our programs.)
    """
    print(text)
    if os.environ.get("WRITE_REPORT") == "1":
        REPORT.write_text(between(REPORT.read_text(encoding="utf-8"), name, text), encoding="utf-8")
