"""When to send? The agent's batchers beside each other over the uplinks, at the same thresholds.

Each knows the link's true costs: what a message and an id in it occupy it for, headers included. The draft lengths it
learns. So this compares schedules, not measurements.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

from bench.proving.methods.contenders import play
from bench.proving.methods.fixed import FIXED
from bench.proving.simulator.figures import Figures
from bench.proving.simulator.planned import Planned, true_costs
from bench.proving.simulator.scenario import LAPTOP, NARROW, Scenario
from bench.proving.simulator.script import Script
from bench.proving.simulator.simulation import Ours
from bench.proving.traces.all_tables import MADE
from pipesd_agent.control.batchers import BATCHERS
from pipesd_agent.control.upload_planner import Planner
from pipesd_agent.session.settings import SessionSettings

LINKS: Final = (*NARROW, LAPTOP.uplink(1), LAPTOP.uplink(20), LAPTOP.uplink(80))
WORKLOADS: Final = ("real-t0.8", MADE, "humaneval-t0")
THRESHOLDS: Final = {"fixed": FIXED, "default": Ours(session=SessionSettings(free_start=1))}
"""Those of `fixed`, with short drafts, and the agent's defaults, with long ones."""
NAME: Final = "schedules"
"""Of the rows' table; `--cell //schedules` runs these alone."""


def played(name: str, ours: Ours, scenario: Scenario, scripts: Sequence[Script]) -> tuple[Figures, Planner]:
    """All answers, one after another, of one agent with this batcher."""
    agent = Planned(name)
    return play(partial(agent.play, ours), scripts, scenario), agent.planner


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
