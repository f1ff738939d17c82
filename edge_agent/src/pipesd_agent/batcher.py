"""Batchers: when do drafted tokens leave the device? (architecture §6, scheduler)

A NAV always takes every unsent draft with it (the paper's Rule 1), so a batcher only decides about sending earlier.
One instance per session. The DP scheduler will be a third one.
"""

from __future__ import annotations

from typing import Protocol

from pipesd_gateway.exceptions import ConfigError


class Batcher(Protocol):
    def due(self, unsent: int) -> bool:
        """Send the `unsent` >= 1 drafts now?"""

    def reset(self) -> None:
        """Start a new plan: a NAV was sent, or the unsent drafts were discarded."""


class Immediate:
    """Each token at once: best where a message costs the link next to nothing."""

    def due(self, unsent: int) -> bool:  # noqa: ARG002
        return True

    def reset(self) -> None:
        pass


class Single:
    """Nothing before the NAV: one message per verification (the baselines' upload)."""

    def due(self, unsent: int) -> bool:  # noqa: ARG002
        return False

    def reset(self) -> None:
        pass


BATCHERS: dict[str, type[Immediate] | type[Single]] = {"immediate": Immediate, "single": Single}


def make_batcher(name: str) -> Batcher:
    """A new batcher, for one session. Raises ConfigError for an unknown name."""
    if name not in BATCHERS:
        raise ConfigError(f"batcher must be one of {', '.join(BATCHERS)}, but is {name!r}")
    return BATCHERS[name]()
