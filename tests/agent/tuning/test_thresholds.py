"""Thresholds that change in the middle of an answer."""

from __future__ import annotations

from pipesd_agent.control.triggers import DualThreshold
from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.tuning.replay import Pair
from pipesd_agent.tuning.thresholds import Thresholds, TunedDual


def drafts(trigger: TunedDual | DualThreshold, *confidences: float) -> list[bool]:
    found = []
    for position, confidence in enumerate(confidences):
        found.append(trigger.drafted(DraftToken(position, 1, confidence)))
        if found[-1]:
            trigger.reset()
    return found


def test_it_is_the_dual_threshold() -> None:
    confidences = (0.9, 0.8, 0.3, 0.99, 0.7, 0.6, 0.5, 0.95)
    for pair in (Pair(0.5, 0.35), Pair(0.0, 0.6), Pair(0.7, 0.0)):
        assert drafts(TunedDual(Thresholds(pair)), *confidences) == drafts(DualThreshold(*pair_of(pair)), *confidences)


def pair_of(pair: Pair) -> tuple[float, float]:
    return pair.r1, pair.r2


def test_a_new_pair_counts_from_the_next_token_on() -> None:
    thresholds = Thresholds(Pair(0.1, 0.1))
    trigger = TunedDual(thresholds)
    trigger.verified(3, 1)
    assert drafts(trigger, 0.9, 0.9) == [False, False]
    thresholds.put(Pair(0.8, 0.1))
    assert thresholds.version == 1
    assert drafts(trigger, 0.9) == [True]
    thresholds.put(Pair(0.8, 0.1))
    assert thresholds.version == 1
