"""Variables of the environment that our libraries read by themselves, at import, and with no word for a wrong value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pipesd_core.errors import ConfigError

_FAMILIES: Final = {"WEBSOCKETS_MAX_": int, "WEBSOCKETS_BACKOFF_": float}
"""Families of variables that must be numbers."""


def check(environ: Mapping[str, str]) -> None:
    """Check what the WebSocket library reads. Raises ConfigError.

    The HTTP client reads nothing: it is told what to use (`proxies`, `trust`), and the HTTP server is told
    all that it could misread (`server`).
    """
    for name in sorted(environ):
        for family, number in _FAMILIES.items():
            if name.startswith(family):
                try:
                    number(environ[name])
                except ValueError:
                    raise ConfigError(
                        f"the environment variable {name}, which the package websockets reads, must be a number, but "
                        f"is {environ[name][:64]!r}: correct or unset it"
                    ) from None
