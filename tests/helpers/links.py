"""Uplinks made of numbers, for the tests of what is measured of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipesd_agent.telemetry.uplink import HEADER_BYTES, Occupancy, Uplink

PERIOD_S = 2**32 / 1e6
QUEUE_S = 0.5


def constant(value: float) -> Callable[[float], float]:
    return lambda _: value


def drive(
    uplink: Uplink,
    rate: Callable[[float], float],
    seconds: float,
    *,
    seed: int = 0,
    extra_s: float = 0.0,
    jitter_s: float = 0.0,
    delay: Callable[[float], float] | None = None,
    drift: float = 0.0,
    clock_s: float = 4290.0,
) -> list[tuple[float, Occupancy]]:
    """An answer every 10 s (an open of 300 to 2500 bytes), a draft about every 36 ms, an ack with each 16th; arrivals
    are told with every fifth draft. rate: bits a second; jitter: exponential; clock: the gateway's, at 0.

    Returns: the estimate each time, after the first tenth.
    """
    delay = delay or constant(0.02)
    rng = np.random.default_rng(seed)
    now = free = last = next_open = 0.0
    untold: list[tuple[int, float]] = []
    reported: list[tuple[float, Occupancy]] = []
    count = 0
    while now < seconds:
        if free > now + QUEUE_S:
            now += 0.036  # the window is full
            continue
        if now >= next_open:
            sizes = [int(rng.uniform(300, 2500))]
            next_open += 10.0
        else:
            sizes = [24 + int(rng.integers(1, 4)), *([11] if count % 16 == 0 else [])]
        for size in sizes:
            number = uplink.sent(size, now)
            free = max(free, now) + extra_s + (size + HEADER_BYTES) * 8 / rate(now)
            last = max(last, free + delay(now) + (rng.exponential(jitter_s) if jitter_s else 0.0))
            untold.append((number, last))
        count += 1
        if count % 5 == 0:
            while untold and untold[0][1] < now:
                number, arrival = untold.pop(0)
                uplink.arrived(number, round(arrival * (1 + drift) + clock_s, 6) % PERIOD_S, PERIOD_S)
            if now > seconds / 10:
                reported.append((now, uplink.occupancy))
        if sizes[0] >= 300:
            now = last + delay(now)  # nothing is drafted before the answer to an open
        now += 0.036 * rng.uniform(0.8, 1.2)
    return reported
