"""How fast could anything be on a trace with so many steps of the target?

The clairvoyant schedule knows which drafts will be accepted: it drafts no wrong token, and asks exactly where it must
or where it pays. Each step of the target decides one token; the others are drafted. While the target decides a token
that the drafter would get wrong, the drafter cannot go on; that costs a trip there and back, and consecutive tokens of
the target's own (a run) cost one such trip together.
"""

from __future__ import annotations

from typing import Final

from bench.proving.simulator.scenario import Scenario
from bench.proving.simulator.script import Script

MESSAGE: Final = 30
"""Bytes of a draft or verdict, roughly."""


def clairvoyant(script: Script, scenario: Scenario, forwards: int, *, runs: bool) -> float:
    """Least seconds for the answer with at most `forwards` steps of the target (or as many as are needed).

    runs: whether the target may write several tokens in a row; else each step of it is a NAV of its own.
    """
    n = len(script)
    needed = [position for position in range(n) if not script.right[position] or position == n - 1]
    step = scenario.queue_s + scenario.forward.seconds(1)
    trip = step + 2 * scenario.delay_s
    trip += 8 * (MESSAGE + scenario.overhead_up) / scenario.up.at(0)
    trip += 8 * (MESSAGE + scenario.overhead_down) / scenario.down.at(0)
    draft = scenario.draft_s
    spare = max(0, forwards - len(needed))
    seconds = 2 * scenario.delay_s + draft * (n - len(needed))
    if not runs:
        seconds += trip * len(needed)
        return seconds - max(0.0, draft - trip) * min(spare, n - len(needed))
    # The gaps of drafts before each needed token; the first token's trip is the opening if nothing is drafted before.
    gaps = sorted(after - before - 1 for before, after in zip([-1, *needed], needed, strict=False))
    seconds += trip * len(needed)
    filled = 0
    for gap in gaps:
        gain = trip - step + gap * (draft - step)
        if gap <= spare and gain > 0:
            seconds -= gain
            spare -= gap
            filled += gap
    rest = min(spare, n - len(needed) - filled)
    return seconds - max(0.0, draft - step) * rest
