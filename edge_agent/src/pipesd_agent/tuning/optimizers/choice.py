"""Choice of the optimizer: Bayesian optimisation where scikit-optimize is installed, compass search elsewhere."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final, Literal

from pipesd_agent.tuning.optimizers.compass import make_compass
from pipesd_agent.tuning.optimizers.gaussian_process import make_skopt
from pipesd_agent.tuning.search import MakeOptimizer
from pipesd_core.errors import ConfigError

OptimizerName = Literal["bayes", "search"]
OptimizerSetting = Literal["auto", "bayes", "search"]
INSTALL: Final = "pip install 'pipesd-agent[tuner]'"
MAKERS: Final[dict[str, MakeOptimizer]] = {"bayes": make_skopt, "search": make_compass}
LABELS: Final[dict[str, str]] = {"bayes": "Bayesian optimisation (scikit-optimize)", "search": "coordinate search"}


def in_use(setting: OptimizerSetting) -> OptimizerName:
    """The optimizer that a setting means on this machine. Imports nothing. Raises ConfigError."""
    if setting == "search":
        return "search"
    if find_spec("skopt") is not None:
        return "bayes"
    if setting == "bayes":
        raise ConfigError(f'tuner.optimizer = "bayes" needs scikit-optimize, which is not installed: {INSTALL}')
    return "search"
