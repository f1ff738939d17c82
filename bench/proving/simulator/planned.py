"""Ours as an agent plays it that knows the link: its planner is told the true costs, and learns the draft lengths.

What a `Monitor` would have to measure first is given, so that policies are compared and not measurements.
"""

from __future__ import annotations

from typing import Final

from bench.proving.simulator.figures import Figures
from bench.proving.simulator.scenario import Scenario
from bench.proving.simulator.script import Script
from bench.proving.simulator.simulation import Ours, Simulation
from pipesd_agent.control.upload_planner import Costs, Planner
from pipesd_agent.session.policies import AlwaysDraft, Mode, Policies
from pipesd_core.protocol.messages import Draft, encode

US: Final = 1e6


def true_costs(scenario: Scenario) -> Costs:
    """Of a message with usual ids, at the rate that the scenario begins with."""
    one, more = (len(encode(Draft(0, 3, 400, (20_000,) * ids))) + scenario.overhead_up for ids in (1, 5))
    byte_us = 8 * US / scenario.up.at(0)
    beta = (more - one) / 4
    return Costs(*(round(x) for x in ((one - beta) * byte_us, beta * byte_us, scenario.draft_s * US)))


class Planned:
    """One agent, that learns from answer to answer."""

    def __init__(self, batcher: str) -> None:
        self.planner = Planner(batcher)

    def play(self, ours: Ours, script: Script, scenario: Scenario, start: float, mode: Mode | None = None) -> Figures:
        """An answer with these settings, but for their batcher."""
        planner = self.planner
        planner.restart()  # answers have their own clocks, which may overlap
        planner.learn(*true_costs(scenario))
        policies = Policies(ours.trigger.make(), planner.batcher(), planner.observer(), mode or AlwaysDraft())
        return Simulation(script, ours, scenario, start, policies=policies, room_at=planner.room_at).run()
