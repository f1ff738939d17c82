"""An agent that knows the link."""

from __future__ import annotations

from functools import partial

import pytest

from bench.proving.methods.contenders import play
from bench.proving.simulator.planned import Planned, true_costs
from bench.proving.simulator.scenario import LAPTOP, NARROW
from bench.proving.simulator.script import Script
from bench.proving.simulator.simulation import Ours, Simulation
from bench.proving.traces.recorded import recorded
from pipesd_agent.control.triggers import DualSettings
from pipesd_agent.session.settings import SessionSettings


def test_what_a_message_costs() -> None:
    """At 10 kbit/s a byte takes 0.8 ms: 58 of headers and 9 of the message's own, 3 for each id."""
    assert true_costs(NARROW[0]) == (67 * 800, 3 * 800, 36_000)
    assert true_costs(LAPTOP.uplink(80)) == (7, 0, 36_000)


def test_what_is_not_said_before_the_link_is_free_need_not_be_taken_back() -> None:
    """Short rounds, often wrong: what was sent behind a wrong draft holds up what comes after it."""
    ours = Ours(DualSettings(r1=0.9, r2=0.9), SessionSettings(window=12, free_start=1), "single")
    scripts = [Script(trace) for trace in recorded("humaneval", 1.0).traces[:4]]
    queued = play(lambda *where: Simulation(where[0], ours, *where[1:]).run(), scripts, NARROW[0])
    paced = play(partial(Planned("single").play, ours), scripts, NARROW[0])
    assert paced.tpt_ms < 0.5 * queued.tpt_ms
    assert paced.messages < 0.7 * queued.messages
    assert paced.forwards <= queued.forwards


def test_answers_may_begin_before_the_one_before_has_ended() -> None:
    """As they are spaced on a varying link, where a slow method needs longer."""
    ours = Ours(DualSettings(), SessionSettings(window=12, free_start=1), "single")
    script, agent = Script(recorded("humaneval", 1.0).traces[0]), Planned("single")
    first = agent.play(ours, script, NARROW[0], 1000.0)
    assert agent.play(ours, script, NARROW[0], 0.0).tpt_ms == pytest.approx(first.tpt_ms)
