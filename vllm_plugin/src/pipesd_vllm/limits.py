"""What a server with this plugin does not do, and the limit of sessions per API key with its way into the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pipesd_gateway.exceptions import ConfigError
from pipesd_gateway.quota import MAX_SESSIONS_PER_KEY

VARIABLE: Final = "PIPESD_MAX_SESSIONS_PER_KEY"
MOST: Final = 2**20

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
"""Flags of vLLM, and why they cannot be more than 1."""


def max_sessions_per_key(environ: Mapping[str, str]) -> int:
    """What the environment says, or the default. Raises ConfigError."""
    given = environ.get(VARIABLE)
    return MAX_SESSIONS_PER_KEY if given is None else count(f"the environment variable {VARIABLE}", given, MOST)


def count(name: str, text: str, most: int) -> int:
    """A number from 1 to `most`. Raises ConfigError."""
    if not (text.isascii() and text.isdecimal()) or len(text) > 9 or not 1 <= int(text) <= most:
        raise ConfigError(f"{name} must be a number from 1 to {most}, but is {text[:64]!r}")
    return int(text)
