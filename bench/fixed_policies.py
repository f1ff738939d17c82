"""Policies that nothing changes and that know no costs, for tests and the bench."""

from __future__ import annotations

from collections.abc import Callable

from pipesd_agent.control.triggers import TriggerSettings
from pipesd_agent.control.upload_planner import Planner
from pipesd_agent.session.policies import AlwaysDraft, MakePolicies, Mode, Policies


def fixed(trigger: TriggerSettings, batcher: str, mode: Callable[[], Mode] = AlwaysDraft) -> MakePolicies:
    """Trigger and batcher that nothing changes, and that know no costs. Raises ConfigError for an unknown batcher."""
    planner = Planner(batcher)
    return lambda: Policies(trigger.make(), planner.batcher(), mode=mode())
