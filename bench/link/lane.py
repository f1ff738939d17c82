"""An emulated link that changes while bytes are on it: when each chunk has left, and when it arrives.

No sockets, no clock, no waiting: `flow`, `proxy` and `emulator` are the shell around it.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from bench.link.model import Queue, Rate, finish

PACKET: Final = 1460
"""Bytes that go at once on a slow link, as in an Ethernet frame."""
CHUNK_S: Final = 0.001
MOST_AT_ONCE: Final = 65536
KERNEL_S: Final = 0.02
LEAST_KERNEL_BYTES: Final = 2048
MOST_KERNEL_BYTES: Final = 2**20
QUEUE_BYTES: Final = 256 * 1024
MOST_IN_THE_AIR: Final = 8 * 2**20


@dataclass(frozen=True)
class Way:
    """One direction of a link.

    delay_s: one way. jitter_s: up to so much more, drawn evenly; no chunk overtakes another. piece, pause_s: slices:
    at most `piece` bytes at a time (0: as many as the rate makes sensible), and at least `pause_s` for each of them.
    Raises ValueError.
    """

    rate: float = math.inf
    delay_s: float = 0.0
    jitter_s: float = 0.0
    piece: int = 0
    pause_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise ValueError(f"the rate of a link must be positive (bit/s), but is {self.rate}")
        if min(self.delay_s, self.jitter_s, self.piece, self.pause_s) < 0:
            raise ValueError(f"delays and sizes of a link must not be negative, but are {self}")

    @cached_property
    def constant(self) -> Rate:
        """The rate, as one that stays."""
        return Rate((self.rate,))

    def chunk(self) -> int:
        """Most bytes that travel as one: a packet, or what goes in `CHUNK_S` if that is more."""
        return self.piece or int(min(MOST_AT_ONCE, max(PACKET, self.rate / 8 * CHUNK_S)))

    def seconds(self, size: int) -> float:
        """For how long a chunk keeps the link busy."""
        return max(finish(self.constant, 0.0, size), self.pause_s)

    def kernel_bytes(self) -> int:
        """Of a socket's receive buffer: what a sender takes for sent while it waits for the link. As on a real link,
        that is some packets on a slow one, and no more than some milliseconds' worth on a fast one."""
        most = MOST_AT_ONCE if math.isinf(self.rate) else MOST_KERNEL_BYTES
        return int(min(most, max(LEAST_KERNEL_BYTES, self.rate / 8 * KERNEL_S)))

    def room(self) -> int:
        """Bytes that may be between the two sockets: what is in the air at the full rate, and a queue."""
        return int(min(MOST_IN_THE_AIR, QUEUE_BYTES + self.rate / 8 * (self.delay_s + self.jitter_s)))


class Lane(Queue):
    """One direction of a link, shared by all its connections: one chunk leaves after the other."""

    def __init__(self, way: Way, seed: int = 0) -> None:
        super().__init__(-math.inf)
        self.way = way
        self._random = random.Random(seed)
        self._size = 0

    def begin(self, size: int, ready: float) -> None:
        """A chunk that was there at `ready` is next. Its departure may still move, with `change` and `stall`."""
        self._size = size
        self.leave(size, ready, self.way.constant, self.way.pause_s)

    def arrival(self) -> float:
        """When the chunk that has left last reaches the other end; ask once a chunk."""
        return self.arrive(self.way.delay_s + self._random.uniform(0.0, self.way.jitter_s))

    def change(self, way: Way, now: float) -> None:
        """From now on the link is another one, for the rest of the chunk that is leaving too."""
        left = self.free_at - now
        if left > 0 and (whole := self.way.seconds(self._size)) > 0 and self._size:
            leaving = min(left, whole)  # more than that is a stall
            self.free_at += leaving / whole * way.seconds(self._size) - leaving
        self.way = way

    def stall(self, seconds: float, now: float) -> None:
        """Nothing leaves for so long."""
        if self.free_at <= now:
            self.free_at, self._size = now, 0
        self.free_at += seconds


@dataclass(frozen=True)
class Step:
    """Of a rate trace: for so many seconds these rates, then the next step."""

    seconds: float
    up: float
    down: float


def redrawn(
    seed: int, up: tuple[float, float], down: tuple[float, float], every_s: float, steps: int | None = None
) -> Iterator[Step]:
    """A trace whose rates are drawn anew, evenly between two bounds; the same for the same seed, everywhere.

    steps: how many; without it, it never ends.
    """
    source = random.Random(seed)
    for _ in itertools.count() if steps is None else range(steps):
        yield Step(every_s, source.uniform(*up), source.uniform(*down))
