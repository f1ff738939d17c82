"""The limit of sessions per API key, and its way into the server: an environment variable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pipesd_gateway.exceptions import ConfigError
from pipesd_gateway.quota import MAX_SESSIONS_PER_KEY

VARIABLE: Final = "PIPESD_MAX_SESSIONS_PER_KEY"
MOST: Final = 2**20


def max_sessions_per_key(environ: Mapping[str, str]) -> int:
    """What the environment says, or the default. Raises ConfigError."""
    given = environ.get(VARIABLE)
    return MAX_SESSIONS_PER_KEY if given is None else count(f"the environment variable {VARIABLE}", given, MOST)


def count(name: str, text: str, most: int) -> int:
    """A number from 1 to `most`. Raises ConfigError."""
    if not (text.isascii() and text.isdecimal()) or len(text) > 9 or not 1 <= int(text) <= most:
        raise ConfigError(f"{name} must be a number from 1 to {most}, but is {text[:64]!r}")
    return int(text)
