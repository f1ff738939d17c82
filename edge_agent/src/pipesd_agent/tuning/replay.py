"""What would other thresholds have cost on the text that was just written? (architecture §6, tuner)

Which drafts are right, and how sure the drafter was of them, depends on the text and not on the thresholds. So the
last judged drafts can be gone through again with any pair of thresholds, in a small model of the session: drafting
goes on during a verification, the target does one step at a time, the window is bounded. It knows nothing of free
runs, of other clients and of a link that changes; the tuner corrects what it says by what is measured.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

_BLOCKED = math.inf

Upload = Literal["immediate", "single", "planned"]
"""How drafts leave before a NAV takes them all: each by itself, not at all, or as many as the link has room for."""


class Pair(Struct, frozen=True, order=True):
    """Thresholds of `triggers.DualThreshold`, 0..1 each."""

    r1: float
    r2: float


class Judged(Struct, frozen=True):
    """A drafted token that the target has decided. astray: confidences of what was drafted after it, where wrong."""

    confidence: float
    right: bool
    astray: tuple[float, ...] = ()


class Costs(Struct, frozen=True):
    """What the monitor measures, in seconds.

    draft_s: of drafting a token (gamma). trip_s: there and back again, nothing to wait for. step_s, row_s: of a step
    of the target, its queue included, and of each row in it. message_s, token_s: that a message and each token in it
    occupy the uplink (alpha, beta).
    """

    draft_s: float
    trip_s: float
    step_s: float
    row_s: float = 0.0
    message_s: float = 0.0
    token_s: float = 0.0


class Spent(Struct, frozen=True):
    """On `tokens` of the output."""

    tokens: int
    seconds: float
    navs: int

    def each(self, price_s: float) -> float:
        """The tuner's objective: seconds per token, and price_s for each NAV per token."""
        return (self.seconds + price_s * self.navs) / self.tokens


def rehearse(text: Sequence[Judged], pair: Pair, costs: Costs, window: int, upload: Upload = "planned") -> Spent:
    """Go through `text` (at least one judged draft) with these thresholds. Some 2 µs per token."""
    r1, r2 = pair.r1, pair.r2
    draft_s, up_s, down_s = costs.draft_s, costs.trip_s / 2, costs.trip_s / 2
    step_s, row_s, message_s, token_s = costs.step_s, costs.row_s, costs.message_s, costs.token_s
    size = len(text)
    pool = [confidence for one in text for confidence in one.astray] or [0.5]
    # The edge: what it has drafted after what it knows of. The times are those of arrival at the gateway.
    base = 0
    arrivals: list[float] = []
    wrong_at = math.inf
    product = 1.0
    drafting_until = draft_s
    wasted = False
    strays = 0
    link_free = 0.0
    leaves, in_message, unsent = -1.0, 0, 0
    # The gateway: what it has decided; when it can begin the next step; what the edge wishes.
    decided = 0
    free_at = 0.0
    wishes: deque[tuple[int, float, float]] = deque()
    verdicts: deque[tuple[float, int, int]] = deque()
    navs = 0
    while True:
        step_at = _BLOCKED
        while wishes:
            upto, arrival, wrong = wishes[0]
            if upto >= decided and wrong >= decided:
                step_at = max(free_at, arrival)
                break
            wishes.popleft()
        verdict_at = verdicts[0][0] if verdicts else _BLOCKED
        if step_at < verdict_at and step_at < drafting_until:
            held = 0
            for arrival in arrivals[decided - base :]:
                if arrival > step_at:
                    break
                held += 1
            accepted = min(held, int(wrong_at) - decided) if wrong_at < _BLOCKED else held
            free_at = step_at + step_s + row_s * (held + 1)
            verdicts.append((free_at + down_s, decided + accepted, decided + accepted + 1))
            decided += accepted + 1
        elif verdict_at <= drafting_until:
            now, bonus, end = verdicts.popleft()
            navs += 1
            if end >= size:
                return Spent(end, now, navs)
            have = len(arrivals)
            if wrong_at <= bonus:  # contradicted: the next draft starts anew
                arrivals.clear()
                wrong_at, product, unsent = math.inf, 1.0, 0
                drafting_until, wasted = now + draft_s, False
            elif base + have <= bonus:  # the forward under way is for the position that was decided just now
                arrivals.clear()
                unsent = 0
                wasted = drafting_until < _BLOCKED
                if not wasted:
                    drafting_until = now + draft_s
            else:
                del arrivals[: end - base]
                unsent = min(unsent, len(arrivals))
                if drafting_until == _BLOCKED:
                    drafting_until = now + draft_s
            base = end
        else:
            now = drafting_until
            drafting_until = now + draft_s
            if wasted:
                wasted = False
                continue
            at = base + len(arrivals)
            if wrong_at == math.inf:
                token = text[at % size]
                confidence = token.confidence
                if not token.right:
                    wrong_at = at
            else:
                astray = text[int(wrong_at) % size].astray
                beyond = at - int(wrong_at) - 1
                if beyond < len(astray):
                    confidence = astray[beyond]
                else:
                    confidence = pool[strays % len(pool)]
                    strays += 1
            if upload == "immediate":
                link_free = max(now, link_free) + message_s + token_s
                arrivals.append(link_free + up_s)
            elif upload == "planned":  # tokens gather while the link is busy, and leave together when it is free
                if now >= leaves:
                    leaves, in_message = max(now, link_free), 0
                in_message += 1
                link_free = leaves + message_s + token_s * in_message
                arrivals.append(link_free + up_s)
            else:
                unsent += 1
                arrivals.append(_BLOCKED)
            product *= confidence
            full = len(arrivals) >= window
            if product <= r1 or confidence <= r2 or full:
                product = 1.0
                if unsent:
                    link_free = max(now, link_free) + message_s + token_s * unsent
                    arrivals[-unsent:] = [link_free + up_s] * unsent
                    unsent = 0
                wishes.append((at, arrivals[-1], wrong_at))
            if full:
                drafting_until = _BLOCKED
