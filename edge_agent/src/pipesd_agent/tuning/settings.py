"""What the tuners can be told: `[tuner]` of the agent's configuration."""

from __future__ import annotations

from typing import Final

import msgspec

from pipesd_agent.tuning.optimizers.choice import OptimizerSetting, in_use
from pipesd_core.errors import ConfigError


class TunerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """enabled: thresholds of the dual trigger follow the traffic, from `trigger.r1` and `trigger.r2` on. optimizer:
    what looks for them, Bayesian optimisation (`bayes`, with scikit-optimize only) or coordinate search (`search`);
    `auto`: the first of them that is installed. price_ms: what a verification is worth, in ms of the user's time: 0,
    latency alone counts; more saves steps of the target. Not given: 0, or OFFLOAD_PRICE_MS for the objective
    `offload`."""

    enabled: bool = True
    optimizer: OptimizerSetting = "auto"
    price_ms: float | None = None

    def __post_init__(self) -> None:
        if self.price_ms is not None and not 0 <= self.price_ms <= 1e5:
            raise ConfigError(f"tuner.price_ms must lie between 0 and 100000, but is {self.price_ms}")
        if self.enabled:
            in_use(self.optimizer)


OFFLOAD_PRICE_MS: Final = 200.0
