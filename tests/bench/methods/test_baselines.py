"""The published methods' models, against rounds reckoned by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made import scripted

from bench.link.model import Rate
from bench.proving.methods.baselines import (
    AUTHORS_SYSTEM,
    LEAN_SYSTEM,
    Method,
    Play,
    System,
    ablations,
    edge_only,
    edgellm,
    hsl,
    pipesd,
    vanilla,
)
from bench.proving.simulator.scenario import Forward, Scenario

FREE = System("free", 0, blocking=False, last_eval=False, waits_for_waiting=False)
"""Nothing but what the scenario says."""
TEN = Scenario(
    "ten",
    0.010,
    up=Rate((8e9,)),
    down=Rate((8e9,)),
    delay_s=0.005,
    forward=Forward(0.003, 0.0),
    overhead_up=0,
    overhead_down=0,
)
"""10 ms a draft, 13 ms from a NAV to its verdict."""


def play(pattern: str, method: Method, system: System = FREE, scenario: Scenario = TEN, **more: float) -> Play:
    made = Play(scripted(pattern, {int(k[1:]): v for k, v in more.items()}), method, scenario, system)
    made.run()
    return made


def test_vanilla_drafts_sends_and_waits() -> None:
    run = play("." * 10, vanilla(4))
    assert run.rounds == [(4, 4), (4, 4)]
    assert run.figures.seconds == pytest.approx(0.010 + 2 * (0.040 + 0.013), abs=1e-5)
    assert run.figures.ttft == pytest.approx(0.010 + 0.053, abs=1e-5)
    assert (run.figures.sent, run.figures.drafted, run.figures.rollbacks) == (8, 8, 0)


def test_a_wrong_draft_costs_the_rest_of_its_round() -> None:
    run = play(".x........", vanilla(4))
    assert run.rounds == [(4, 1), (4, 4), (2, 2)]
    assert run.figures.rollbacks == 1


def test_hsl_stops_at_an_unsure_token() -> None:
    assert play("." * 9, hsl(0.9), p1=0.5, p4=0.95, p6=0.9).rounds == [(2, 2), (4, 4), (0, 0)]


def test_proactive_drafts_are_kept_if_the_guess_is_right() -> None:
    """While the NAV is out (13 ms) only the guess is done: the next round starts one token ahead."""
    method = Method("m", vanilla(4).trigger, upload="plan", proactive=True)
    run = play("." * 10, method)
    assert run.rounds == [(4, 4), (4, 4)]
    assert run.figures.seconds == pytest.approx(0.010 + 0.040 + 0.050 + 0.013, abs=1e-4)
    assert run.figures.drafted == 9


def test_a_wrong_guess_costs_what_was_drafted_on_it() -> None:
    method = Method("m", vanilla(4).trigger, upload="plan", proactive=True)
    run = play("....x.....", method)
    assert run.rounds == [(4, 4), (4, 4)]
    assert run.figures.seconds == pytest.approx(0.010 + 2 * 0.053, abs=1e-4)
    assert run.figures.rollbacks == 1


def test_a_waiting_nav_is_sent_before_the_verdict() -> None:
    far = replace(TEN, delay_s=0.035)
    method = Method("m", vanilla(2).trigger, upload="plan", proactive=True)
    assert play("." * 6, method, scenario=far).figures.seconds == pytest.approx(0.07 + 0.02 + 0.073 + 0.03, abs=1e-4)
    waits = replace(FREE, waits_for_waiting=True)
    slow = play("." * 12, method, waits, far).figures.seconds
    assert slow > play("." * 12, method, FREE, far).figures.seconds


def test_the_authors_payload_and_requests_take_their_time() -> None:
    """One token alone: 25 ms a request, 290,308 bytes at 20 Mbit/s, and a last evaluation before the next round."""
    scenario = replace(TEN, up=Rate((20e6,)), delay_s=0.0125)
    run = play("....", vanilla(1), AUTHORS_SYSTEM, scenario)
    each = 0.010 + 0.025 + 0.1161 + 0.003
    assert run.figures.seconds == pytest.approx(0.025 + 2 * each + 0.010, abs=1e-3)


def test_a_plan_uploads_before_the_nav() -> None:
    scenario = replace(TEN, up=Rate((20e6,)), delay_s=0.0125)
    planned = play("." * 14, Method("m", vanilla(6).trigger, "plan"), AUTHORS_SYSTEM, scenario).figures
    whole = play("." * 14, vanilla(6), AUTHORS_SYSTEM, scenario).figures
    assert planned.seconds < whole.seconds
    assert planned.messages > whole.messages
    assert planned.sent == whole.sent


def test_uploads_that_have_not_begun_are_dropped_at_a_rejection() -> None:
    scenario = replace(TEN, up=Rate((20e6,)), delay_s=0.0125)
    method = Method("m", vanilla(4).trigger, upload="plan", proactive=True)
    run = play("x" + "." * 20, method, AUTHORS_SYSTEM, scenario).figures
    assert run.verified < run.sent < run.drafted  # one upload was under way


@pytest.mark.parametrize("system", [AUTHORS_SYSTEM, LEAN_SYSTEM])
@pytest.mark.parametrize("method", [vanilla(8), hsl(0.99), edgellm(0.9, 0.5), pipesd(0.9, 0.5), *ablations(0.9, 0.5)])
@pytest.mark.parametrize("pattern", [".", "x", "x" * 7, "..x.x......" * 3, "." * 90])
def test_every_token_is_committed_once(pattern: str, method: Method, system: System) -> None:
    run = play(pattern, method, system)
    assert sum(accepted + 1 for _, accepted in run.rounds) == len(pattern) == run.figures.tokens
    assert run.figures.sent >= run.figures.verified >= run.figures.accepted
    assert run.figures.forwards == len(run.rounds)


def test_a_drafted_end_of_text_is_verified_at_once() -> None:
    script = scripted("....", eos_at=2)
    run = Play(script, vanilla(8), TEN, FREE)
    run.run()
    assert run.rounds[0] == (3, 3)


def test_edge_only() -> None:
    assert edge_only(scripted("." * 10), TEN).seconds == pytest.approx(0.1)
