"""The headers that tell a refused client when to come back: the one owner of `retry-after`.

Refused clients that all come back in one moment are refused again in one moment, so each is told a time of its own.
"""

from __future__ import annotations

import math
import random
from typing import Final

LEAST_S: Final = 1.0
MOST_S: Final = 60.0
"""OpenAI's SDK heeds no longer time."""
SPREAD: Final = 0.5
"""Each client waits for up to this part of the time longer."""
LONGEST_S: Final = MOST_S / (1 + SPREAD)


def headers(seconds: float) -> dict[str, str]:
    """The headers for a server that expects to have room in `seconds`; other ones at each call.

    In whole seconds as in RFC 9110, and in milliseconds: OpenAI's SDK reads those first, and one second could not be
    spread otherwise.
    """
    least = min(max(seconds, LEAST_S), LONGEST_S)
    after_s = least * random.uniform(1, 1 + SPREAD)
    return {"retry-after": str(round(after_s)), "retry-after-ms": str(math.ceil(after_s * 1000))}


def whole(seconds: float) -> int:
    """Whole seconds for a message to an agent, which spreads them among its clients; 0 for 0, which is no time."""
    return math.ceil(min(seconds, LONGEST_S))
