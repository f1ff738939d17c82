"""Limits of sessions with their way into the server, and flags of vLLM that a server with this plugin cannot have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from pipesd_core.errors import ConfigError
from pipesd_gateway.limits import SessionLimits
from pipesd_gateway.quota import MAX_SESSIONS_PER_KEY


class Limit(Struct, frozen=True):
    """A flag of `pipesd-vllm serve`, which travels to the server as an environment variable."""

    flag: str
    variable: str
    default: int
    least: int
    most: int

    def of(self, environ: Mapping[str, str]) -> int:
        """The limit set in the environment, or the default. Raises ConfigError."""
        given = environ.get(self.variable)
        if given is None:
            return self.default
        return count(f"the environment variable {self.variable}", given, self.least, self.most)


SESSIONS: Final = Limit("--max-sessions-per-key", "PIPESD_MAX_SESSIONS_PER_KEY", MAX_SESSIONS_PER_KEY, 1, 2**20)
GRACE: Final = Limit("--grace", "PIPESD_VLLM_GRACE", int(SessionLimits().grace_s), 0, 3600)
"""Seconds that an agent whose link is lost has to resume its sessions, which keep their KV blocks."""

NO_DATA_PARALLEL: Final = (
    "a session lives in one engine core; start one server per replica, behind a load balancer that keeps connections "
    "where they are"
)
NO_PIPELINE_PARALLEL: Final = (
    "vLLM 0.32's speculative decoding does not start with pipeline parallelism (its issue 30436); "
    "use tensor parallelism"
)
ONLY_ONE: Final = {
    ("--data-parallel-size", "-dp"): NO_DATA_PARALLEL,
    ("--pipeline-parallel-size", "-pp"): NO_PIPELINE_PARALLEL,
    ("--api-server-count", "-asc"): "a session lives in one API server",
    ("--stream-interval",): "a session needs every step's tokens",
}
"""Flags of vLLM that must be 1, with the reason."""


def lora_tokens(seqs: int, drafts: int, given: int | None, default: int) -> int:
    """`--max-num-batched-tokens` of a server with LoRA adapters: vLLM demands a drafted step's rows for each request.

    Args:
        seqs, drafts: `--max-num-seqs` and `--max-drafts`.
        given: what the user says. Raises ConfigError if that is too small.
        default: vLLM's own.
    """
    least = seqs * (drafts + 1)
    if given is not None and given < least:
        raise ConfigError(
            f"--max-num-batched-tokens must be at least {least} with --enable-lora, --max-num-seqs {seqs} and "
            f"--max-drafts {drafts} (1 + drafts for each), but is {given}: raise it, or lower one of the others"
        )
    return max(default, least)


def count(name: str, text: str, least: int, most: int) -> int:
    """A number from `least` to `most`. Raises ConfigError."""
    if not (text.isascii() and text.isdecimal()) or len(text) > 9 or not least <= int(text) <= most:
        raise ConfigError(f"{name} must be a number from {least} to {most}, but is {text[:64]!r}")
    return int(text)
