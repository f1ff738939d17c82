"""The scenarios that methods are compared in, as data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final

import numpy as np

from bench.link.model import Rate

MBIT: Final = 1e6
KBIT: Final = 1e3
TCP_IP: Final = 52
"""Bytes of TCP (with timestamps) and IPv4 headers of a packet."""
MASKED_FRAME: Final = 6
PLAIN_FRAME: Final = 2
"""WebSocket header of a short frame from the client, and from the server."""
PROMPT_BYTES: Final = 4
"""Text of a prompt's token, in the request that opens an answer."""


@dataclass(frozen=True)
class Forward:
    """Time of one step of the target: base_s + row_s for each row (drafts in the pass + 1)."""

    base_s: float
    row_s: float

    def seconds(self, rows: int) -> float:
        return self.base_s + self.row_s * rows


A800: Final = Forward(0.0052, 0.00037)
"""Fitted to times that a public reproduction of PipeSD measured: 1-2 rows 5.5-6.5 ms, 8 about 9, 24 14.0."""


@dataclass(frozen=True)
class Scenario:
    """draft_s: seconds that drafting a token takes at least, at any time (also during a verification). up, down: the
    link. delay_s: one way. forward: of the target; queue_s: what a step waits for others before it. overhead_up,
    overhead_down: bytes of each message beyond its encoding."""

    name: str
    draft_s: float
    up: Rate = field(default=Rate((20 * MBIT,)))
    down: Rate = field(default=Rate((200 * MBIT,)))
    delay_s: float = 0.0125
    forward: Forward = A800
    queue_s: float = 0.0
    overhead_up: int = TCP_IP + MASKED_FRAME
    overhead_down: int = TCP_IP + PLAIN_FRAME

    def uplink(self, mbit: float) -> Scenario:
        """The same with another uplink."""
        return replace(self, name=f"{self.name}@{mbit:g}", up=Rate((mbit * MBIT,)))


VARYING_SEED: Final = 20
VARYING_STEPS: Final = 400


@lru_cache
def varying(low: float, high: float, stream: int) -> Rate:
    """Scenario 4: uniform between low and high Mbit/s, redrawn every 20 s."""
    rng = np.random.default_rng((VARYING_SEED, stream))
    return Rate(tuple(float(x) * MBIT for x in rng.uniform(low, high, VARYING_STEPS)))


LAPTOP: Final = Scenario("1-laptop", 0.036)
PAPER: Final = (
    LAPTOP,
    Scenario("2-phone", 0.072),
    Scenario("3-iot", 0.144),
    Scenario("4-varying", 0.036, up=varying(10, 80, 0), down=varying(150, 280, 1)),
)
NARROW: Final = tuple(
    Scenario(f"narrow-{kbit}k", 0.036, up=Rate((kbit * KBIT,)), down=Rate((10 * kbit * KBIT,)))
    for kbit in (10, 30, 100)
)
LONG: Final = tuple(Scenario(f"rtt-{ms}ms", 0.036, delay_s=ms / 2000) for ms in (100, 300, 600))
FAST_EDGE: Final = Scenario("fast-edge", 0.008, forward=Forward(0.05, 0.0))
SCENARIOS: Final = (*PAPER, *NARROW, *LONG, FAST_EDGE)
SWEEP: Final = tuple(LAPTOP.uplink(mbit) for mbit in (10, 40, 80))
"""Of the paper's figure 5, with scenario 1."""

AUTHORS: Final = tuple(
    replace(scenario, draft_s=draft_s) for scenario, draft_s in zip(PAPER, (0.042, 0.083, 0.158, 0.042), strict=True)
)
"""The paper's four with the drafting times of the authors' machines, from the round times that they published."""
