"""Settings of the tuners: the table `[tuner]` of the agent's configuration."""

from __future__ import annotations

from typing import Final

import msgspec

from pipesd_agent.tuning.optimizers.choice import OptimizerSetting, in_use
from pipesd_core.errors import ConfigError


class TunerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table `[tuner]`. Raises ConfigError for a value that cannot work.

    enabled: the thresholds of the dual trigger follow the traffic, from `trigger.r1` and `trigger.r2` on.
    optimizer: what searches for them, Bayesian optimisation (`bayes`, with scikit-optimize only) or coordinate search
        (`search`); `auto`: the first of them that is installed.
    verification_cost_ms: weight of a verification in the objective, which is ms per token + this x verifications per
        token: with 0 latency alone counts, more saves steps of the target. Not given: 0, or
        OFFLOAD_VERIFICATION_COST_MS with the objective `offload`.
    """

    enabled: bool = True
    optimizer: OptimizerSetting = "auto"
    verification_cost_ms: float | None = None

    def __post_init__(self) -> None:
        if self.verification_cost_ms is not None and not 0 <= self.verification_cost_ms <= 1e5:
            raise ConfigError(
                f"tuner.verification_cost_ms must lie between 0 and 100000, but is {self.verification_cost_ms}"
            )
        if self.enabled:
            in_use(self.optimizer)


OFFLOAD_VERIFICATION_COST_MS: Final = 200.0
