"""Thresholds that change in the middle of an answer."""

from __future__ import annotations

from pipesd_agent.control.triggers import DualThreshold
from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.tuning.replay import Pair
from pipesd_agent.tuning.thresholds import Thresholds


def drafts(trigger: DualThreshold, *confidences: float) -> list[bool]:
    found = []
    for position, confidence in enumerate(confidences):
        found.append(trigger.drafted(DraftToken(position, 1, confidence)))
        if found[-1]:
            trigger.reset()
    return found


def test_a_new_pair_counts_from_the_next_token_on() -> None:
    thresholds = Thresholds(Pair(0.1, 0.1))
    trigger = DualThreshold(thresholds)
    trigger.verified(3, 1)
    assert drafts(trigger, 0.9, 0.9) == [False, False]
    thresholds.put(Pair(0.8, 0.1))
    assert thresholds.version == 1
    assert drafts(trigger, 0.9) == [True]
    thresholds.put(Pair(0.8, 0.1))
    assert thresholds.version == 1
