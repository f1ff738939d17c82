"""The choice between vLLM's two model runners, V1 and V2. Made once, before a server's processes start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct

from pipesd_core.errors import ConfigError

V1: Final = "v1"
V2: Final = "v2"
AUTO: Final = "auto"
FLAG: Final = "--runner"
VARIABLE: Final = "VLLM_USE_V2_MODEL_RUNNER"
"""vLLM's own setting, which our flag is written to for all processes of the server."""
REMOTE_DRAFTS: Final = {
    V1: "pipesd_vllm.compat.proposer.RemoteDrafts",
    V2: "pipesd_vllm.compat.speculator.RemoteDrafts",
}
"""The `model` of our speculative configuration on each runner, by which it is told from any of vLLM's own."""
_OF_VARIABLE: Final = {"0": V1, "1": V2}


class RunnerChoice(Struct, frozen=True):
    """A model runner, and why it is that one."""

    name: str
    why: str

    @property
    def setting(self) -> str:
        """The value of vLLM's own setting."""
        return next(setting for setting, name in _OF_VARIABLE.items() if name == self.name)

    def __str__(self) -> str:
        return f"model runner {self.name.upper()} ({self.why})"


def choose(asked: str, environ: Mapping[str, str], v2_is_missing: Callable[[], str | None]) -> RunnerChoice:
    """The runner that a server is to have. Raises ConfigError.

    Args:
        asked: "v1", "v2", or "auto": what vLLM would take by itself.
        v2_is_missing: why V2 cannot run here, or None.
    """
    if asked not in (AUTO, V1, V2):
        raise ConfigError(f"{FLAG} must be {AUTO}, {V1} or {V2}, but is {asked[:64]!r}")
    setting = environ.get(VARIABLE)
    if setting is not None and setting not in _OF_VARIABLE:
        raise ConfigError(f"the environment variable {VARIABLE} must be 0 or 1, but is {setting[:64]!r}")
    set_to = _OF_VARIABLE.get(setting or "")
    if set_to is not None and asked not in (AUTO, set_to):
        raise ConfigError(f"{FLAG} is {asked}, but {VARIABLE} is {setting}: leave one of them out")
    missing = v2_is_missing()
    by_hand = f"{FLAG} {asked}" if asked != AUTO else f"{VARIABLE}={setting}"
    if asked == AUTO and set_to is None:
        if missing is None:
            return RunnerChoice(V2, "vLLM's own choice")
        return RunnerChoice(V1, f"V2 cannot run here: {missing}")
    name = set_to or asked
    if name == V2 and missing is not None:
        raise ConfigError(f"{by_hand} cannot be: vLLM's model runner V2 cannot run here, because {missing}")
    return RunnerChoice(name, by_hand)
