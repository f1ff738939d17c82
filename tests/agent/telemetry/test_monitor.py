"""What a monitor makes of what its sessions tell it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from decisions import Decider
from fake_gateway import opened

from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.session.counts import Counts
from pipesd_agent.telemetry.monitor import Monitor, MonitorObserver, Moved
from pipesd_core.protocol.messages import Draft, Endpoint, Open, Reason, Verdict

OPEN = Open(0, 1, Endpoint.COMPLETIONS, bytes(500), b"")
NOTHING = Moved(replan=False, retune=False)


def drafted(position: int, seconds: float = 0.0, confidence: float = 0.9) -> DraftToken:
    return DraftToken(position, 7, confidence, seconds=seconds)


def verdict(
    *,
    tokens: int = 1,
    heard: int = 0,
    stamps: tuple[int, ...] = (),
    by_request: bool = True,
    queue_us: int = 0,
    us: int = 0,
) -> Verdict:
    reason = Reason.VERIFICATION if by_request else Reason.RUN
    return Verdict(0, 1, 10, tokens - 1, tokens - 1, (7,) * tokens, reason, queue_us, us, 0, heard, stamps)


def draft_for(observer: MonitorObserver, seconds: list[float]) -> None:
    for value in seconds:
        observer.drafted(drafted(10, value), 0.0)


def test_gamma_is_the_mean_of_the_last_hundred_measured() -> None:
    monitor = Monitor()
    first, second = monitor.observer(), monitor.observer()
    draft_for(first, [0.03] * 100)
    draft_for(second, [0.04] * 50 + [0.0] * 20)
    assert monitor.draft_s == pytest.approx(0.035)
    draft_for(first, [60.0])
    assert monitor.draft_s is not None
    assert monitor.draft_s < 0.04, "one that was held up for a minute"


def test_another_gamma_is_a_reason_to_plan_again_and_noise_is_none() -> None:
    monitor = Monitor()
    observer = monitor.observer()
    draft_for(observer, [0.03] * 20)
    assert monitor.moved() == Moved(replan=True, retune=False), "the first one"
    assert monitor.moved() == NOTHING
    draft_for(observer, [0.035] * 200)
    assert monitor.moved() == NOTHING, "17 %"
    draft_for(observer, [0.04] * 100)
    assert monitor.moved().replan


def test_false_alarms_are_few() -> None:
    alarms = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        monitor = Monitor()
        observer = monitor.observer()
        decider = Decider(observer)
        observer.opened(opened(0), Counts(), 0.0)
        now = 0.0
        for _ in range(600):
            now += rng.exponential(0.2)
            draft_for(observer, rng.gamma(4.0, 0.01, 5).tolist())
            decider.decided(verdict(tokens=int(rng.integers(1, 8))), now)
            moved = monitor.moved()
            alarms += moved.replan + moved.retune
    assert alarms <= 20, "10 of them the first gamma; 3000 tokens drafted and 24 windows each"


def test_time_per_token_that_moves_is_a_reason_to_tune_again() -> None:
    monitor = Monitor()
    observer = monitor.observer()
    decider = Decider(observer)
    now, told = 0.0, []
    for step in range(600):
        now += 0.2 if step < 300 else 0.3
        decider.decided(verdict(tokens=4, by_request=step % 2 == 0), now)
        told.append(monitor.moved().retune)
    assert sum(told) in (1, 2)
    assert 300 < told.index(True) < 300 + 4 * 26
    window = monitor.figures().window
    assert window is not None
    assert window.tpot_s == pytest.approx(0.075)
    assert window.verifications_per_token == pytest.approx(1 / 8, rel=0.05)


def test_sessions_side_by_side_do_not_look_fast() -> None:
    monitor = Monitor()
    deciders = [Decider(monitor.observer()), Decider(monitor.observer())]
    for step in range(400):
        deciders[step % 2].decided(verdict(tokens=2), step * 0.05)
    window = monitor.figures().window
    assert window is not None
    assert window.tpot_s == pytest.approx(0.05)


def test_a_session_that_was_away_does_not_look_slow() -> None:
    monitor = Monitor()
    observer = monitor.observer()
    decider = Decider(observer)
    for step in range(400):
        decider.decided(verdict(tokens=2), step * 0.1 + (25.0 if step > 200 else 0.0))
    window = monitor.figures().window
    assert window is not None
    assert window.tpot_s == pytest.approx(0.05)


def test_acceptance_by_confidence() -> None:
    monitor = Monitor()
    observer = monitor.observer()
    for position, right in ((10, True), (11, False)):
        observer.judged(drafted(position, confidence=0.97), right, 1.0)
    observer.judged(drafted(12), right=True, now=1.5)
    by_confidence = {group.upto: (group.weight, group.right) for group in monitor.figures().by_confidence}
    assert [list(by_confidence[upto]) for upto in (0.9, 0.98)] == [[1, 1], pytest.approx([2, 0.5], rel=0.01)]
    assert monitor.figures().acceptance is not None


def test_totals_are_what_the_sessions_count_also_while_they_run() -> None:
    monitor = Monitor()
    first, second, never_opened = monitor.observer(), monitor.observer(), monitor.observer()
    one, other = Counts(drafted=5, sent=3, accepted=1), Counts(tokens=7)
    first.opened(opened(0), one, 0.0)
    second.opened(opened(0), other, 0.0)
    one.accepted = 2
    assert monitor.figures().totals == Counts(tokens=7, drafted=5, sent=3, accepted=2)
    first.ended(1.0)
    never_opened.ended(1.0)
    other.tokens = 9
    assert (monitor.figures().totals.tokens, monitor.figures().sessions) == (9, 2)
    second.ended(2.0)
    assert monitor.figures().totals == Counts(tokens=9, drafted=5, sent=3, accepted=2)


def test_the_way_there_and_back_leaves_out_all_waiting() -> None:
    """10 ms each way, the gateway's clock 500 s ahead; 3 ms in the queue and 40 in the pass. The link takes nothing."""
    monitor = Monitor()
    observer = monitor.observer()
    decider = Decider(observer)
    observer.sent(OPEN, 600, 0.0)
    observer.opened(opened(0), Counts(), 0.02)
    untold = [500_010_000]
    now = 0.03
    for number in range(30):
        observer.sent(Draft(0, 0, 10 + number, (7,), 0), 24, now)
        untold.append(int((500.01 + now) * 1e6))
        stamps = (untold[0], *(later - at for at, later in pairwise(untold)))
        now += 0.01 + 0.043 + 0.01
        decider.decided(verdict(heard=number + 2, stamps=stamps, queue_us=3000, us=40_000), now)
        untold.clear()
        now += 0.02
    assert monitor.rtt_s == pytest.approx(0.02, abs=0.001)
    figures = monitor.figures()
    assert figures.message_s == 0.0
    assert figures.token_s == 0.0
    assert figures.verify_base_s == pytest.approx(0.04, rel=0.05)
    assert figures.queue_s == pytest.approx(0.003)


def test_a_gateway_that_tells_nothing_of_arrivals() -> None:
    monitor = Monitor()
    observer = monitor.observer()
    decider = Decider(observer)
    observer.sent(OPEN, 600, 0.0)
    for number in range(2000):
        observer.sent(Draft(0, 0, 10 + number, (7,), 0), 24, float(number))
        decider.decided(verdict(), number + 0.5)
    assert (monitor.message_s, monitor.token_s, monitor.rtt_s) == (None, None, None)


def test_a_fresh_monitor_knows_nothing() -> None:
    monitor = Monitor()
    monitor.observer().ended(1.0)
    figures = monitor.figures()
    assert (figures.draft_s, figures.acceptance, figures.window, figures.verify_base_s) == (None, None, None, None)
    assert monitor.moved() == NOTHING
