"""Replay of recorded text with other thresholds: what would it have cost? (architecture §6, tuner)

Which drafts are right, and how confident the drafter was of them, depends on the text and not on the thresholds. So the
last judged drafts can be replayed with any pair of thresholds, in a small model of the session: drafting goes on during
a verification, the target does one step at a time, the window is bounded. The model knows nothing of free runs, of
other clients and of a link that changes; the tuner corrects its results by what is measured.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

_BLOCKED = math.inf

UploadStrategy = Literal["immediate", "single", "planned"]
"""How drafts leave before a verification takes them all: each by itself, not at all, or as the link has room."""


class Pair(Struct, frozen=True, order=True):
    """Thresholds of `triggers.DualThreshold`, 0..1 each: r1 of the sequence's confidence, r2 of a token's."""

    r1: float
    r2: float


class Judged(Struct, frozen=True):
    """A draft whose position the target has decided.

    discarded_confidences: confidences of the drafts that were discarded with it, where it was wrong.
    """

    confidence: float
    right: bool
    discarded_confidences: tuple[float, ...] = ()


class PipelineCosts(Struct, frozen=True):
    """Durations that the monitor measures, in seconds.

    draft_s: drafting a token (gamma). trip_s: a message there and back that waits for nothing. step_s, row_s: a step
    of the target, its queue included, and each row in it. message_s, token_s: the uplink's time for a message and for
    each token in it (alpha, beta).
    """

    draft_s: float
    trip_s: float
    step_s: float
    row_s: float = 0.0
    message_s: float = 0.0
    token_s: float = 0.0


class ReplayCost(Struct, frozen=True):
    """Cost of `tokens` output tokens in a replay."""

    tokens: int
    seconds: float
    verifications: int

    def per_token(self, verification_cost_s: float) -> float:
        """The tuner's objective, in seconds per token: each verification counts for `verification_cost_s` more."""
        return (self.seconds + verification_cost_s * self.verifications) / self.tokens


def replay(
    text: Sequence[Judged], pair: Pair, costs: PipelineCosts, window: int, upload: UploadStrategy = "planned"
) -> ReplayCost:
    """Replay `text` (at least one judged draft) with the thresholds `pair`. Takes some 2 µs per token."""
    r1, r2 = pair.r1, pair.r2
    draft_s, up_s, down_s = costs.draft_s, costs.trip_s / 2, costs.trip_s / 2
    step_s, row_s, message_s, token_s = costs.step_s, costs.row_s, costs.message_s, costs.token_s
    size = len(text)
    discarded = [confidence for one in text for confidence in one.discarded_confidences] or [0.5]
    # The edge: its drafts after the tokens that it knows to be decided, as times of arrival at the gateway.
    base = 0
    arrivals: list[float] = []
    wrong_at = math.inf
    product = 1.0
    drafting_until = draft_s
    wasted = False
    made_up = 0
    link_free = 0.0
    leaves, in_message, unsent = -1.0, 0, 0
    # The gateway: what it has decided; when it can begin the next step; the verifications that the edge requests.
    decided = 0
    free_at = 0.0
    requests: deque[tuple[int, float, float]] = deque()
    verdicts: deque[tuple[float, int, int]] = deque()
    verifications = 0
    while True:
        step_at = _BLOCKED
        while requests:
            upto, arrival, wrong = requests[0]
            if upto >= decided and wrong >= decided:
                step_at = max(free_at, arrival)
                break
            requests.popleft()
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
            verifications += 1
            if end >= size:
                return ReplayCost(end, now, verifications)
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
                after = text[int(wrong_at) % size].discarded_confidences
                beyond = at - int(wrong_at) - 1
                if beyond < len(after):
                    confidence = after[beyond]
                else:
                    confidence = discarded[made_up % len(discarded)]
                    made_up += 1
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
                requests.append((at, arrivals[-1], wrong_at))
            if full:
                drafting_until = _BLOCKED
