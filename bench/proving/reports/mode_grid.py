"""Is the automatic mode ever slower than the better of its two sides? A grid.

    python -m bench.proving.reports.mode_grid

Each point of drafting time, round trip, uplink, step time and acceptance is a scenario and a made-up text. Its answers
come one after the other, and what the agent knows is kept from one to the next, as in an agent. Compared: cloud-only,
collaborative (the agent's defaults) and `auto`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any, Final

from bench.link.model import Rate
from bench.markdown import markdown
from bench.page import between
from bench.proving.reports.report import PAGE
from bench.proving.simulator.scenario import KBIT, MBIT, Forward, Scenario
from bench.proving.simulator.script import Script
from bench.proving.simulator.simulation import Ours, Simulation
from bench.proving.traces.stochastic import FITTED, Text, make_table
from pipesd_agent.config import AgentConfig
from pipesd_agent.control.mode import ModeSelector, Objective
from pipesd_agent.control.upload_planner import Planner
from pipesd_agent.session.policies import Policies

DRAFT_S: Final = (0.004, 0.02, 0.06, 0.15)
RTT_S: Final = (0.005, 0.05, 0.3)
UPLINKS: Final = (20 * KBIT, 20 * MBIT)
STEP_S: Final = (0.006, 0.03, 0.12)
TEXTS: Final = {
    "high": FITTED,
    "low": replace(FITTED, harden=0.3, soften=0.3, easy=0.05, hard=0.5, trust=0.9),
}
"""Acceptance of a drafted token after a right prefix: `fit`'s, 0.94, and 0.67."""
ANSWERS, LENGTH = 24, 192
LEARNT: Final = ANSWERS // 2
"""Answers after which all is learnt: the others are reported apart."""
SPACING_S: Final = 60.0


@dataclass(frozen=True)
class Place:
    """A point of the grid. uplink: bits a second, the downlink has ten times as many. acceptance: of `TEXTS`."""

    draft_s: float
    rtt_s: float
    uplink: float
    step_s: float
    acceptance: str

    @property
    def scenario(self) -> Scenario:
        return Scenario(
            "mode",
            self.draft_s,
            up=Rate((self.uplink,)),
            down=Rate((10 * self.uplink,)),
            delay_s=self.rtt_s / 2,
            forward=Forward(self.step_s * 0.94, self.step_s * 0.06),
        )


GRID: Final = tuple(itertools.starmap(Place, itertools.product(DRAFT_S, RTT_S, UPLINKS, STEP_S, TEXTS)))


@cache
def scripts(acceptance: str, answers: int = ANSWERS) -> list[Script]:
    text: Text = TEXTS[acceptance]
    return [Script(trace) for trace in make_table(f"mode-{acceptance}", answers, LENGTH, text=text, seed=5).traces]


@dataclass(frozen=True)
class Outcome:
    """Milliseconds per token and, of those that draft, target steps per token, over all answers; `settled`: over those
    after the first `LEARNT`. near_after: tokens from which on `auto` as a whole is within 5 % of the better side."""

    cloud_ms: float
    collaborative_ms: float
    auto_ms: float
    cloud_settled_ms: float
    collaborative_settled_ms: float
    auto_settled_ms: float
    collaborative_forwards: float
    auto_forwards: float
    switches: int
    near_after: int | None

    @property
    def excess(self) -> float:
        """Of `auto` over the better side, as a share, learning included."""
        return self.auto_ms / min(self.cloud_ms, self.collaborative_ms) - 1

    @property
    def excess_settled(self) -> float:
        return self.auto_settled_ms / min(self.cloud_settled_ms, self.collaborative_settled_ms) - 1


def play(place: Place, objective: Objective = "latency", answers: int = ANSWERS) -> Outcome:
    texts, scenario, ours = scripts(place.acceptance, answers), place.scenario, Ours()
    agents = replace(ours, session=AgentConfig(objective=objective).sessions)
    switches: list[object] = []
    auto = ModeSelector(objective, on_switch=switches.append)

    def policies() -> Policies:
        return Policies(ours.trigger.make(), Planner(ours.batcher).batcher(), mode=auto.session())

    cloud = [Simulation(text, Ours(drafts=False), scenario, SPACING_S * i).run() for i, text in enumerate(texts)]
    drafted = [Simulation(text, ours, scenario, SPACING_S * i).run() for i, text in enumerate(texts)]
    mixed = [
        Simulation(text, agents, scenario, SPACING_S * i, policies=policies()).run() for i, text in enumerate(texts)
    ]

    def ms(some: Sequence[Any]) -> float:
        return float(1000 * sum(x.seconds for x in some) / sum(x.tokens for x in some))

    def forwards(some: Sequence[Any]) -> float:
        return float(sum(x.forwards for x in some) / sum(x.tokens for x in some))

    rest = min(LEARNT, answers // 2)
    late = [ms(mixed[: i + 1]) > 1.05 * min(ms(cloud[: i + 1]), ms(drafted[: i + 1])) for i in range(answers)]
    last = max((i for i, over in enumerate(late) if over), default=-1)
    near = None if late[-1] else sum(x.tokens for x in mixed[: last + 1])
    return Outcome(
        ms(cloud),
        ms(drafted),
        ms(mixed),
        ms(cloud[rest:]),
        ms(drafted[rest:]),
        ms(mixed[rest:]),
        forwards(drafted),
        forwards(mixed),
        len(switches),
        near,
    )


def rows(places: Sequence[Place] = GRID, objective: Objective = "latency") -> Iterator[dict[str, Any]]:
    for place in places:
        outcome = play(place, objective)
        yield {
            **asdict(place),
            **asdict(outcome),
            "excess": outcome.excess,
            "excess_settled": outcome.excess_settled,
        }


def section(some: Sequence[dict[str, Any]]) -> str:
    """For the report: what came of the grid, and its worst points."""
    excess = sorted(row["excess"] for row in some)
    settled = sorted(row["excess_settled"] for row in some)
    near = [row["near_after"] for row in some if row["near_after"] is not None]
    cloud = sum(row["cloud_ms"] < 0.99 * row["collaborative_ms"] for row in some)
    collaborative = sum(row["collaborative_ms"] < 0.99 * row["cloud_ms"] for row in some)
    text = (
        f"{len(some)} points, {ANSWERS} answers of {LENGTH} tokens each; "
        f"cloud-only is the better side at {cloud}, collaborative "
        f"at {collaborative}; at the others they are the same (the target has written the answer before there is a "
        "draft). "
        f"`auto` above the better side: {100 * statistics.median(excess):.1f} % in the median and "
        f"{100 * excess[-1]:.1f} % at most, learning included; of the second half of the answers "
        f"{100 * statistics.median(settled):.1f} % and {100 * settled[-1]:.1f} %. "
        f"Within 5 % from {max(near, default=0)} tokens on at the slowest of {len(near)} points, "
        f"{sum(n == 0 for n in near)} from the first answer on. Faster than both sides by more than 5 % at "
        f"{sum(x < -0.05 for x in excess)} points, by {-100 * excess[0]:.0f} % at most: there the target runs on while "
        "the edge drafts.\n\nThe points where it is slowest and fastest, compared with the better side:\n\n"
    )
    ordered = sorted(some, key=lambda row: -row["excess"])
    shown = [*ordered[:10], *ordered[-10:]] if len(ordered) > 20 else ordered
    head = [
        "draft, RTT, step ms", "uplink kbit/s", "acceptance", "cloud-only", "collaborative", "auto", "above, %",
        "settled, %", "within 5 % after",
    ]  # fmt: skip
    body = [
        [
            f"{1000 * row['draft_s']:g}, {1000 * row['rtt_s']:g}, {1000 * row['step_s']:g}",
            f"{row['uplink'] / KBIT:g}",
            row["acceptance"],
            *(f"{row[name]:.1f}" for name in ("cloud_ms", "collaborative_ms", "auto_ms")),
            *(f"{100 * row[name]:.1f}" for name in ("excess", "excess_settled")),
            "" if row["near_after"] is None else str(row["near_after"]),
        ]
        for row in shown
    ]
    return text + markdown(head, body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objective", choices=("latency", "offload"), default="latency")
    parser.add_argument("--every", type=int, default=1, help="one point of so many (%(default)s)")
    parser.add_argument("--page", action="store_true", help="write the section into docs/benchmarks.md")
    parser.add_argument("--rows", action="store_true", help="JSON lines instead of the section")
    args = parser.parse_args()
    some = []
    for row in rows(GRID[:: args.every], args.objective):
        some.append(row)
        if args.rows:
            print(json.dumps(row), flush=True)
    if not args.rows:
        print(section(some))
    if args.page:
        PAGE.write_text(between(PAGE.read_text("utf-8"), "modes", section(some)), encoding="utf-8")


if __name__ == "__main__":
    main()
