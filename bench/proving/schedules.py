"""When to send? The agent's batchers beside each other over the uplinks, at the same thresholds.

Each knows the link's true costs: what a message and an id in it occupy it for, headers included. The draft lengths it
learns. So this compares schedules, not measurements.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from bench.proving.figures import Figures
from bench.proving.fixed import FIXED
from bench.proving.methods import SPACING_S
from bench.proving.scenario import LAPTOP, NARROW, Scenario
from bench.proving.script import Script
from bench.proving.simulator import Ours, Simulation
from pipesd_agent.planning.planner import BATCHERS, Costs, Planner
from pipesd_agent.policies import Policies, Unwatched
from pipesd_agent.session import SessionSettings
from pipesd_gateway.protocol import Draft, EdgeMessage, encode

LINKS: Final = (*NARROW, LAPTOP.uplink(1), LAPTOP.uplink(20), LAPTOP.uplink(80))
WORKLOADS: Final = ("made-up", "humaneval-t0")
THRESHOLDS: Final = {"fixed": FIXED, "default": Ours(session=SessionSettings(free_start=1))}
"""Those of `fixed`, with short drafts, and the agent's defaults, with long ones."""
NAME: Final = "schedules"
"""Of the rows' table; `--cell //schedules` runs these alone."""
US: Final = 1e6


class Told(Unwatched):
    """Passes on what the planner has to know."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner

    def wished(self, drafts: int, now: float) -> None:
        self._planner.wished(drafts, now)

    def sent(self, message: EdgeMessage, size: int, now: float) -> None:
        self._planner.sent(message, size, now)


def true_costs(scenario: Scenario) -> Costs:
    """Of a message with usual ids, at the rate that the scenario begins with."""
    one, more = (len(encode(Draft(0, 3, 400, (20_000,) * ids))) + scenario.overhead_up for ids in (1, 5))
    byte_us = 8 * US / scenario.up.at(0)
    beta = (more - one) / 4
    return Costs(*(round(x) for x in ((one - beta) * byte_us, beta * byte_us, scenario.draft_s * US)))


def played(name: str, ours: Ours, scenario: Scenario, scripts: Sequence[Script]) -> tuple[Figures, Planner]:
    """All answers, one after another, of one agent with this batcher."""
    planner = Planner(name)
    planner.learn(*true_costs(scenario))
    total = Figures()
    for number, script in enumerate(scripts):
        policies = Policies(ours.trigger.make(), planner.batcher(), Told(planner))
        total.add(Simulation(script, ours, scenario, SPACING_S * number, policies=policies).run())
    return total, planner


def rows(workload: str, scripts: Sequence[Script], links: Sequence[Scenario] = LINKS) -> Iterator[dict[str, Any]]:
    """One for each of the thresholds, links and batchers."""
    for thresholds, ours in THRESHOLDS.items():
        for scenario in links:
            for name in BATCHERS:
                figures, planner = played(name, ours, scenario, scripts)
                yield {
                    "table": NAME,
                    "workload": workload,
                    "thresholds": thresholds,
                    "scenario": scenario.name,
                    "method": name,
                    "costs_us": list(true_costs(scenario)),
                    "n_hat": planner.n_hat,
                    "plan": None if planner.plan is None else list(planner.plan),
                    **figures.row(),
                }
