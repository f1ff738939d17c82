"""Batchers decide when drafted tokens leave the device (architecture §6, scheduler).

A verification always takes every unsent draft with it, so a batcher only decides about sending earlier.
One instance per session; `upload_planner.Planner` makes them, by name.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Final, Literal, get_args

from pipesd_core.errors import ConfigError

BatcherName = Literal["immediate", "single", "dp", "expected"]
BATCHERS: Final[tuple[str, ...]] = get_args(BatcherName)


class Immediate:
    """Sends each token at once: best where a message costs the link next to nothing."""

    def due(self, unsent: int, now: float) -> bool:  # noqa: ARG002
        return True

    def reset(self) -> None:
        pass


class Single:
    """Sends nothing before the verification: one message for each (the upload of earlier methods)."""

    def due(self, unsent: int, now: float) -> bool:  # noqa: ARG002
        return False

    def reset(self) -> None:
        pass


class Planned:
    """Sends by a plan of batch sizes that repeats until the verification (the PipeSD paper's).

    The plan's cuts are at numbers of tokens drafted, not sent: where the link could take nothing and several have
    passed, all goes in one message, and the next cut stays where it is.

    plan: the one to follow now, of sizes >= 1; asked at the start of a round. None: each token at once.
    """

    def __init__(self, plan: Callable[[], tuple[int, ...] | None]) -> None:
        self._plan = plan
        self._began = False
        self._sent = 0

    def due(self, unsent: int, now: float) -> bool:  # noqa: ARG002
        if not self._began:
            self._began = True
            self._sizes = cycle(self._plan() or (1,))
            self._cut = next(self._sizes)
        drafted = self._sent + unsent
        if drafted < self._cut:
            return False
        while self._cut <= drafted:
            self._cut += next(self._sizes)
        self._sent = drafted
        return True

    def reset(self) -> None:
        self._began = False
        self._sent = 0


class Timed:
    """Sends by a schedule that takes into account what the link still has to send.

    send: (tokens of the round that are sent, unsent ones, now) -> whether to send those.
    """

    def __init__(self, send: Callable[[int, int, float], bool]) -> None:
        self._send = send
        self._sent = 0

    def due(self, unsent: int, now: float) -> bool:
        if not self._send(self._sent, unsent, now):
            return False
        self._sent += unsent
        return True

    def reset(self) -> None:
        self._sent = 0


def check_batcher(name: str) -> None:
    """Raise ConfigError for an unknown name."""
    if name not in BATCHERS:
        raise ConfigError(f"batcher must be one of {', '.join(BATCHERS)}, but is {name!r}")
