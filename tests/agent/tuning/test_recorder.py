"""What the recorder of a session hands to its tuner."""

from __future__ import annotations

import pytest
from decisions import Decider
from tuning import COSTS, START, WINDOW, FakeProposer

from pipesd_agent.control.triggers import DualThreshold
from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.session.counts import Counts
from pipesd_agent.tuning.recorder import DraftRecorder
from pipesd_agent.tuning.replay import Judged, Pair
from pipesd_agent.tuning.tuner import STRETCH, Stretch, Tuner
from pipesd_core.protocol.messages import Opened, Reason, Verdict
from pipesd_core.sampling.params import SamplingParams


class Told(Tuner):
    def __init__(self) -> None:
        super().__init__(START, FakeProposer(), window=WINDOW)
        self.costs(COSTS)
        self.stretches: list[Stretch] = []

    def stretch(self, stretch: Stretch) -> None:
        self.stretches.append(stretch)


def verdict(tokens: int, reason: Reason = Reason.VERIFICATION) -> Verdict:
    return Verdict(0, 1, 0, 0, 0, (7,) * tokens, reason, 0, 0, 0)


def drafted(recorder: DraftRecorder, position: int, confidence: float = 0.9) -> DraftToken:
    token = DraftToken(position, 7, confidence)
    recorder.drafted(token, 0.0)
    return token


class World:
    def __init__(self, temperature: float = 0.0) -> None:
        self.greedy, self.sampled = Told(), Told()
        self.trigger = DualThreshold(self.greedy.thresholds)
        self.recorder = DraftRecorder({False: self.greedy, True: self.sampled}, self.trigger)
        params = SamplingParams(temperature=temperature, seed=1)
        opened = Opened(0, bytes(16), (1, 2, 3), params, 99, (), "m")
        self.recorder.opened(opened, Counts(), 0.0)
        self.decider = Decider(self.recorder)
        self.position = 3

    def round(self, tokens: int, now: float, reason: Reason = Reason.VERIFICATION) -> None:
        """A verdict that says that `tokens - 1` drafts are right; the last token had no draft."""
        for token in [drafted(self.recorder, self.position + i) for i in range(tokens - 1)]:
            self.recorder.judged(token, True, now)
        self.position += tokens
        self.decider.decided(verdict(tokens, reason), now)


def test_stretches_of_many_verdicts() -> None:
    world = World()
    for number in range(20):
        world.round(8, 0.5 * number)
    first, *more = world.greedy.stretches
    assert (first.tokens, first.seconds, first.verifications) == (0, 0.0, 0)  # before the first verdict: text only
    assert len(first.text) == 7
    assert [one.tokens for one in more] == [STRETCH, STRETCH]
    assert more[0].verifications == STRETCH // 8
    assert more[0].seconds == pytest.approx(0.5 * STRETCH // 8)
    assert more[0].text == (Judged(0.9, right=True),) * (7 * STRETCH // 8)
    world.recorder.ended(99.0)
    assert world.greedy.stretches[-1].tokens == 19 * 8 - 2 * STRETCH
    assert not world.sampled.stretches


def test_a_wrong_draft_and_what_came_after_it() -> None:
    world = World()
    world.round(1, 0.0)
    tokens = [drafted(world.recorder, 4 + i, 0.9 - 0.1 * i) for i in range(5)]
    world.recorder.judged(tokens[0], True, 1.0)
    world.recorder.judged(tokens[1], False, 1.0)
    world.recorder.discarded(1.0)
    world.decider.decided(verdict(2), 1.0)
    drafted(world.recorder, 6)
    world.recorder.ended(2.0)
    (stretch,) = world.greedy.stretches
    assert stretch.text[0] == Judged(0.9, right=True)
    assert stretch.text[1].discarded_confidences == pytest.approx((0.7, 0.6, 0.5))
    assert not stretch.text[1].right


def test_free_runs_are_text_but_not_time() -> None:
    world = World()
    world.round(3, 0.0)
    world.round(3, 1.0)
    world.round(4, 9.0, Reason.RUN)
    world.round(1, 9.5, Reason.RUN)
    world.round(3, 11.0)
    world.recorder.ended(12.0)
    told = [(one.tokens, one.seconds, len(one.text)) for one in world.greedy.stretches]
    assert told == [(0, 0.0, 2), (3, 1.0, 2), (0, 0.0, 3), (3, 1.5, 2)]


def test_a_new_pair_ends_the_stretch() -> None:
    world = World()
    world.round(3, 0.0)
    world.round(3, 1.0)
    world.greedy.thresholds.put(Pair(0.5, 0.5))
    world.round(3, 2.0)
    world.round(3, 3.0)
    world.recorder.ended(4.0)
    assert [(one.pair, one.tokens) for one in world.greedy.stretches[1:]] == [(START, 6), (Pair(0.5, 0.5), 3)]


def test_sampled_answers_have_a_tuner_of_their_own() -> None:
    world = World(temperature=1.0)
    assert world.trigger.thresholds is world.sampled.thresholds
    for number in range(20):
        world.round(8, float(number))
    assert len(world.sampled.stretches) == 3
    assert not world.greedy.stretches
