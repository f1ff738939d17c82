"""One direction of a virtual link, by departure times: order kept, rate from a trace, then a constant delay."""

from __future__ import annotations

from bench.link.model import Queue, Rate, begin


class Link(Queue):
    """Messages queue before it; each occupies it for its bits, and arrives `delay_s` after its last bit left."""

    def __init__(self, rate: Rate, delay_s: float) -> None:
        super().__init__(0.0)
        self._rate = rate
        self._delay_s = delay_s

    def send(self, now: float, size: float) -> float:
        """Queue `size` bytes at `now`; returns when the last of them arrives, in seconds."""
        self.leave(size, now, self._rate)
        return self.arrive(self._delay_s)

    def room_at(self, limit: float) -> float:
        """From when on fewer than `limit` of the bytes sent so far have not left yet."""
        return begin(self._rate, self.free_at, limit)
