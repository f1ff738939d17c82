"""Ours in virtual time: the real sessions, against times reckoned by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made import scripted

from bench.link.model import Rate
from bench.proving.simulator.figures import Figures
from bench.proving.simulator.scenario import PROMPT_BYTES, Forward, Scenario
from bench.proving.simulator.simulation import Ours, Simulation
from pipesd_agent.control.triggers import DualSettings, FixedSettings
from pipesd_agent.session.settings import SessionSettings

FAST = Rate((8e9,))
SLOW_TARGET = Scenario("slow target", 0.010, FAST, FAST, 0.005, Forward(0.030, 0.0), overhead_up=0, overhead_down=0)
"""10 ms a draft, 40 ms from a NAV to its verdict."""
FAST_TARGET = replace(SLOW_TARGET, forward=Forward(0.003, 0.0))
FOUR = Ours(trigger=FixedSettings(length=4), session=SessionSettings(free_start=1))


def play(pattern: str, ours: Ours = FOUR, scenario: Scenario = SLOW_TARGET, **more: float) -> Figures:
    return Simulation(scripted(pattern, {int(k[1:]): v for k, v in more.items()}), ours, scenario).run()


def test_drafting_goes_on_during_a_verification() -> None:
    """Opened at 10 ms; the target's own first step ends at 35. Then NAVs at 50, 90, 130 and 170 ms, each overlapping
    the next drafts; the last verdict is there at 210, the last token is left to the target: 5 + 30 + 5 ms."""
    figures = play("." * 18)
    assert (figures.navs, figures.forwards, figures.rollbacks, figures.drafted) == (4, 6, 0, 17)
    assert figures.seconds == pytest.approx(0.250, abs=0.001)


def test_the_target_s_token_is_where_the_drafter_goes_on_from() -> None:
    figures = play("..x.......")
    assert figures.rollbacks == 1
    assert figures.tokens == 10
    assert figures.sent > figures.accepted


def test_a_faster_target_writes_all_if_it_is_let() -> None:
    free = play("." * 40, replace(FOUR, session=SessionSettings()), FAST_TARGET)
    assert (free.forwards, free.drafted, free.navs) == (40, 0, 0)
    assert free.seconds == pytest.approx(0.010 + 40 * 0.003, abs=0.002)
    held = play("." * 40, FOUR, FAST_TARGET)
    assert held.forwards < 20
    assert held.seconds > free.seconds


def test_cloud_only() -> None:
    figures = play("." * 40, Ours(drafts=False))
    assert (figures.forwards, figures.drafted, figures.navs) == (40, 0, 0)
    assert figures.seconds == pytest.approx(0.010 + 40 * 0.030, abs=0.001)


def test_padding_is_charged_and_paced() -> None:
    """A message at a time leaves the session while the link is busy: the others gather in the window."""
    scenario = replace(SLOW_TARGET, up=Rate((20e6,)))
    plain = play("." * 40, FOUR, scenario)
    padded = play("." * 40, replace(FOUR, padding=290_308), scenario)
    assert padded.bytes_up == pytest.approx(padded.sent * 290_308, rel=0.01)
    assert padded.seconds > padded.sent * 0.116
    assert padded.messages < plain.messages


def test_what_the_target_has_decided_is_not_drafted_on() -> None:
    """Opened at 10 ms; at 22 the target's own first token makes the forward for it useless: aborted. The wrong draft is
    there at 122, its verdict at 144; the forward astray is aborted too: draft at 244, verdict at 266."""
    slow = replace(SLOW_TARGET, draft_s=0.1, forward=Forward(0.012, 0.0))
    one = Ours(trigger=DualSettings(r1=0.0, r2=0.5), session=SessionSettings(free_start=1))
    assert play(".x..", one, slow, p1=0.4).seconds == pytest.approx(0.266, abs=0.001)


def test_what_an_abort_left_undone_is_not_aborted_too() -> None:
    """As in the worker: a target that is faster and writes by itself must not keep the drafter from getting anywhere.
    Forwards from 10 to 22 ms (aborted), to 122, to 222 and on: each ends, and what it drafts is decided by then."""
    slow = replace(SLOW_TARGET, draft_s=0.1, forward=Forward(0.012, 0.0))
    figures = play("." * 40, Ours(session=SessionSettings()), slow)
    assert figures.drafted == 0
    assert figures.seconds == pytest.approx(0.010 + 40 * 0.012, abs=0.002)


def test_the_request_s_body_goes_up() -> None:
    script = scripted("." * 20)
    usual = Simulation(script, FOUR, SLOW_TARGET).run()
    script.body = bytes(script.prompt_length * PROMPT_BYTES + 100)
    assert Simulation(script, FOUR, SLOW_TARGET).run().bytes_up == usual.bytes_up + 100


def test_equal_runs_are_equal() -> None:
    assert play("..x..x...", p2=0.3) == play("..x..x...", p2=0.3)


@pytest.mark.parametrize("pattern", [".", "x", "x" * 9, "..x.x......" * 3, "." * 90])
@pytest.mark.parametrize("window", [1, 4, 40])
@pytest.mark.parametrize("batcher", ["immediate", "single"])
def test_every_answer_ends(pattern: str, window: int, batcher: str) -> None:
    ours = Ours(session=SessionSettings(window=window, free_start=1), batcher=batcher)
    figures = play(pattern, ours)
    assert figures.accepted <= figures.sent <= figures.drafted
    assert figures.forwards <= len(pattern) <= figures.accepted + figures.forwards
    assert 0 < figures.ttft <= figures.seconds


def test_a_drafted_end_of_text_ends_the_drafting() -> None:
    figures = Simulation(scripted("." * 9, eos_at=8), FOUR, SLOW_TARGET).run()
    assert figures.tokens == 9
