"""What was done when: the bars of a pipeline timeline. The simulators fill one in if they are given one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Lane = Literal["drafting", "sending", "verifying"]


@dataclass(frozen=True)
class Span:
    """begin, end: seconds of virtual time. tokens: drafts in it (drafting: 0 for an evaluation that proposes none).
    useful: drafting: of the right token; else: always."""

    lane: Lane
    begin: float
    end: float
    tokens: int
    useful: bool = True


class Timeline:
    """Spans in the order in which they were known, which is not always that of time."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def add(self, lane: Lane, begin: float, end: float, tokens: int, *, useful: bool = True) -> None:
        self.spans.append(Span(lane, begin, end, tokens, useful))

    def within(self, begin: float, end: float) -> list[Span]:
        """Those that touch the interval, by lane and time."""
        touching = [span for span in self.spans if span.end > begin and span.begin < end]
        return sorted(touching, key=lambda span: (span.lane, span.begin))
