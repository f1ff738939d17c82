"""The agent as `pipesd-agent start` puts it together, in virtual time: everything measured, planned, tuned and chosen
by the controller itself, from nothing known on. What it learns is kept from one answer to the next."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from bench.proving.figures import Figures
from bench.proving.scenario import Scenario
from bench.proving.script import Script
from bench.proving.simulator import Ours, Simulation
from pipesd_agent.control import OFFLOAD_PRICE_MS, Controller
from pipesd_agent.mode import AutoMode, Objective
from pipesd_agent.planning.planner import Planner
from pipesd_agent.session import SessionSettings
from pipesd_agent.trigger import TriggerSettings
from pipesd_agent.tuning.proposer import Inline
from pipesd_agent.tuning.rehearsal import Pair
from pipesd_agent.tuning.surrogate import make_skopt
from pipesd_agent.tuning.tuners import Tuners

BATCHER: Final = "expected"


class Started:
    """objective: of mode `auto`; None: mode `collaborative`. To be called as a `methods.Runner`, answer by answer."""

    def __init__(self, objective: Objective | None) -> None:
        session, trigger = SessionSettings(free_start=1 if objective == "offload" else None), TriggerSettings()
        tuners = Tuners(
            Pair(trigger.r1, trigger.r2),
            lambda: Inline(make_skopt),
            window=session.window,
            upload="planned",
            price_ms=OFFLOAD_PRICE_MS if objective == "offload" else 0.0,
            kept=None,
        )
        auto = None if objective is None else AutoMode(objective)
        self.controller = Controller(trigger, Planner(BATCHER), auto=auto, tuners=tuners)
        self._ours = replace(Ours(), session=session)

    def __call__(self, script: Script, scenario: Scenario, start: float) -> Figures:
        policies = self.controller.policies()
        return Simulation(script, self._ours, scenario, start, policies=policies).run()
