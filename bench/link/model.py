"""What a link does to what is sent over it, as arithmetic over clock readings: first in, first out.

Of the link in virtual time (`virtual`) and of the emulated one (`lane`). Times are in seconds on any one clock, sizes
in bytes, rates in bits per second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    """Bits a second, redrawn every `period_s`; the last one stays. One entry: constant."""

    steps: tuple[float, ...]
    period_s: float = 20.0

    def __post_init__(self) -> None:
        if not self.steps or min(self.steps) <= 0 or self.period_s <= 0:
            raise ValueError(f"a rate needs positive steps and a positive period, but has {self}")

    def at(self, time: float) -> float:
        """Bits a second."""
        return self.steps[min(int(time / self.period_s), len(self.steps) - 1)]


class Queue:
    """One direction of a link: one thing leaves after the other, and arrives some delay after its last bit left.

    By departure times: each begins when the one before has left, or when it is ready, whichever is later. Nothing is
    ever slept away, so that nothing adds up however late a timer fires.
    """

    def __init__(self, free_at: float) -> None:
        self.free_at = free_at
        """When the last bit of all that was queued has left."""
        self._arrived = -math.inf

    def leave(self, size: float, ready: float, rate: Rate, least_s: float = 0.0) -> None:
        """`size` bytes that are there at `ready` are next; they keep the link busy for `least_s` at least."""
        start = max(ready, self.free_at)
        self.free_at = max(finish(rate, start, size), start + least_s)

    def arrive(self, delay_s: float) -> float:
        """When what was queued last is at the other end: not before anything that left earlier."""
        self._arrived = max(self._arrived, self.free_at + delay_s)
        return self._arrived


def finish(rate: Rate, start: float, size: float) -> float:
    """When `size` bytes that leave from `start` on have left."""
    bits = size * 8
    if len(rate.steps) == 1:
        return start + bits / rate.steps[0]
    at = start
    while True:
        step = min(int(at / rate.period_s), len(rate.steps) - 1)
        end = (step + 1) * rate.period_s
        could = (end - at) * rate.steps[step]
        if step == len(rate.steps) - 1 or bits <= could:
            return at + bits / rate.steps[step]
        bits -= could
        at = end


def begin(rate: Rate, end: float, size: float) -> float:
    """From when on the link was busy with the last `size` bytes, if it was until `end`. The inverse of `finish`."""
    bits = size * 8
    at = end
    while at > 0:
        step = min(int(at / rate.period_s), len(rate.steps) - 1)
        first = step * rate.period_s
        if at == first and step:
            step -= 1
            first = step * rate.period_s
        could = (at - first) * rate.steps[step]
        if bits <= could:
            return at - bits / rate.steps[step]
        bits -= could
        at = first
    return 0.0
