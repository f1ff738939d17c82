"""The agent as `pipesd-agent start` puts it together, in virtual time: everything measured, planned, tuned and chosen
by the controller itself, from nothing known on. What it learns is kept from one answer to the next."""

from __future__ import annotations

from bench.proving.simulator.figures import Figures
from bench.proving.simulator.inline import Inline
from bench.proving.simulator.scenario import Scenario
from bench.proving.simulator.script import Script
from bench.proving.simulator.simulation import Ours, Simulation
from pipesd_agent.config import AgentConfig
from pipesd_agent.control.controller import Controller
from pipesd_agent.control.mode import ModeSelector, Objective
from pipesd_agent.control.triggers import DualSettings
from pipesd_agent.control.upload_planner import Planner
from pipesd_agent.tuning.optimizers.gaussian_process import make_skopt
from pipesd_agent.tuning.per_sampling import Tuners


class Started:
    """objective: of mode `auto`; None: mode `collaborative`. ours: its settings. tuned: whether r1 and r2 follow the
    traffic. To be called as a `contenders.Runner`, answer by answer."""

    def __init__(self, objective: Objective | None, ours: Ours | None = None, *, tuned: bool = True) -> None:
        config = AgentConfig(objective=objective or "latency")
        ours = ours or Ours(session=config.sessions, batcher=config.batcher)
        trigger = ours.trigger
        assert isinstance(trigger, DualSettings)
        tuners = Tuners(
            trigger.pair,
            lambda: Inline(make_skopt),
            window=ours.session.window,
            upload="planned",
            verification_cost_ms=config.verification_cost_ms,
            kept=None,
        )
        auto = None if objective is None else ModeSelector(objective)
        self.controller = Controller(trigger, Planner(ours.batcher), auto=auto, tuners=tuners if tuned else None)
        self._ours = ours

    def __call__(self, script: Script, scenario: Scenario, start: float) -> Figures:
        self.controller.planner.restart()  # answers have their own clocks, which may overlap
        policies = self.controller.policies()
        room_at = self.controller.planner.room_at
        return Simulation(script, self._ours, scenario, start, policies=policies, room_at=room_at).run()
