"""One direction of a virtual link, by departure times: order kept, rate from a trace, then a constant delay."""

from __future__ import annotations

from bench.proving.simulator.scenario import Rate


class Link:
    """Messages queue before it; each occupies it for its bits, and arrives `delay_s` after its last bit left."""

    def __init__(self, rate: Rate, delay_s: float) -> None:
        self.free_at = 0.0
        """When the last bit of all that was sent leaves."""
        self._rate = rate
        self._delay_s = delay_s

    def send(self, now: float, size: float) -> float:
        """Queue `size` bytes at `now`; returns when the last of them arrives, in seconds."""
        self.free_at = finish(self._rate, max(now, self.free_at), size)
        return self.free_at + self._delay_s

    def room_at(self, limit: float) -> float:
        """From when on fewer than `limit` of the bytes sent so far have not left yet."""
        return begin(self._rate, self.free_at, limit)


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
