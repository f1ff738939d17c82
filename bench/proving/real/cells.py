"""Virtual against real time: the cells, and what this machine's own time adds to each step and draft.

The real side is `real`: a gateway, an agent and the link emulator as they are, with the demo models, floors by
sleeping. The emulator carries bytes, no packets: so there are no headers of TCP and IP on either side.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from bench.link.model import Rate
from bench.proving.simulator.figures import Figures
from bench.proving.simulator.scenario import (
    FAST_EDGE,
    LAPTOP,
    LONG,
    MASKED_FRAME,
    NARROW,
    PAPER,
    PLAIN_FRAME,
    Forward,
    Scenario,
)
from bench.proving.simulator.simulation import Ours
from pipesd_agent.control.triggers import DualSettings, FixedSettings
from pipesd_agent.session.settings import SessionSettings
from pipesd_agent.telemetry.tracing import LiveTrace
from pipesd_core.protocol.messages import Reason

STEP_S: Final = 0.020
"""Of the emulated target: longer than the demo target's own 8 ms with 17 rows, and drawing them, on two cores."""
SLOW_STEP: Final = FAST_EDGE.forward.base_s
HELD: Final = SessionSettings(free_start=1)
DUAL: Final = Ours(DualSettings(), HELD)
FIXED: Final = Ours(FixedSettings(length=6), HELD)
SINGLE: Final = replace(FIXED, batcher="single")
CLOUD: Final = Ours(drafts=False)
METHODS: Final = {"dual": DUAL, "fixed": FIXED, "fixed-single": SINGLE, "cloud-only": CLOUD}


def emulated(scenario: Scenario, step_s: float = STEP_S) -> Scenario:
    """As the real parts can play it: steps of one length whatever their rows, bytes without packets."""
    forward = Forward(step_s, 0.0)
    return replace(scenario, forward=forward, overhead_up=MASKED_FRAME, overhead_down=PLAIN_FRAME)


@dataclass(frozen=True)
class Cell:
    """method: of `METHODS`."""

    workload: str
    temperature: float
    scenario: Scenario
    method: str

    @property
    def name(self) -> str:
        return f"{self.workload}-t{self.temperature:g}/{self.scenario.name}/{self.method}"

    @property
    def ours(self) -> Ours:
        return METHODS[self.method]


CELLS: Final = (
    Cell("humaneval", 0, emulated(LAPTOP), "dual"),
    Cell("chat", 1, emulated(LAPTOP), "fixed"),
    Cell("humaneval", 1, emulated(LAPTOP), "cloud-only"),
    Cell("chat", 0, emulated(PAPER[1]), "fixed-single"),
    Cell("humaneval", 1, emulated(PAPER[3]), "dual"),
    Cell("humaneval", 0, emulated(NARROW[1]), "dual"),
    Cell("chat", 1, emulated(NARROW[2]), "fixed-single"),
    Cell("chat", 0, emulated(LONG[1]), "dual"),
    Cell("humaneval", 0, emulated(FAST_EDGE, SLOW_STEP), "dual"),
    Cell("chat", 1, emulated(FAST_EDGE, SLOW_STEP), "fixed"),
    Cell("chat", 0, emulated(FAST_EDGE, SLOW_STEP), "cloud-only"),
)

ROUND: Final = 6
PROBE: Final = Cell(
    "chat", 0, replace(emulated(LAPTOP), name="probe", delay_s=0.0, up=Rate((1e9,)), down=Rate((1e9,))), "fixed-single"
)
"""What the costs are measured with: a link that takes no time, and a window of one round, so that each verification
has the target to itself and nothing is drafted meanwhile."""
PROBING: Final = replace(SINGLE, session=SessionSettings(window=ROUND, free_start=1))


@dataclass(frozen=True)
class Costs:
    """Seconds that the real parts need beyond the floors. draft_s: a drafted token, from one to the next in a row.
    step_s: a step of the target, from one to the next in a free run. handling_s: from a message with a wish to its
    verdict, less such a step: both ends, the emulator and the sockets. opening_s: of a request, besides; not charged.
    """

    draft_s: float
    step_s: float
    handling_s: float
    opening_s: float

    def charged(self, scenario: Scenario) -> Scenario:
        """The scenario with what the parts need: handling on the way, half each."""
        return replace(
            scenario,
            draft_s=scenario.draft_s + self.draft_s,
            delay_s=scenario.delay_s + self.handling_s / 2,
            forward=replace(scenario.forward, base_s=scenario.forward.base_s + self.step_s),
        )

    def row(self) -> dict[str, Any]:
        """In milliseconds, for a report."""
        return {name.removesuffix("_s") + "_ms": round(1000 * value, 3) for name, value in asdict(self).items()}


def costs_of(short: Figures, long: Figures, traces: Sequence[LiveTrace], scenario: Scenario) -> Costs:
    """From what was measured in `PROBE`'s scenario, whose link takes no time.

    short, long: of cloud-only requests, the same ones for few tokens and for many. traces: what an agent recorded of
    rounds (`PROBING`), of which the medians count. Raises ValueError for traces without a round.
    """
    step_s = (long.seconds - short.seconds) / (long.tokens - short.tokens)
    drafts: list[float] = []
    rounds: list[float] = []
    for trace in traces:
        drafts += [
            after.at - before.at
            for before, after in itertools.pairwise(trace.drafted)
            if before.after == after.after and before.position + 1 == after.position
        ]
        navs = [verdict.at for verdict in trace.decided if verdict.reason is Reason.VERIFICATION]
        for sent in trace.sent:
            answered = next((at for at in navs if at >= sent.at), None)
            if sent.wish is not None and answered is not None:
                rounds.append(answered - sent.at)
    if not drafts or not rounds:
        raise ValueError("the traces have no round of drafts and their verification: record others")
    handling_s = statistics.median(rounds) - step_s
    return Costs(
        draft_s=statistics.median(drafts) - scenario.draft_s,
        step_s=step_s - scenario.forward.base_s,
        handling_s=handling_s,
        opening_s=(short.seconds - short.tokens * step_s) / short.answers - handling_s,
    )
