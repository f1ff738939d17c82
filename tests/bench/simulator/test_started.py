"""The agent as it is started, in virtual time: what it measures is so, and what it makes of that is better."""

from __future__ import annotations

import pytest

from bench.proving.methods.contenders import play
from bench.proving.simulator.scenario import FAST_EDGE, NARROW, PAPER
from bench.proving.simulator.script import Script
from bench.proving.simulator.simulation import Ours, Simulation
from bench.proving.simulator.started import Started
from bench.proving.traces.stochastic import FITTED, make_table


@pytest.fixture(scope="module")
def scripts() -> list[Script]:
    return [Script(trace) for trace in make_table("started", 16, 256, text=FITTED, seed=9).traces]


def test_a_fast_edge(scripts: list[Script]) -> None:
    """A target of 50 ms a step, and drafts of 8 ms: often verified, many at once."""
    agent = Started("latency")
    figures = play(agent, scripts, FAST_EDGE)
    control = agent.controller.figures()
    assert control.monitor is not None
    assert control.monitor.draft_s == pytest.approx(FAST_EDGE.draft_s)
    assert control.monitor.rtt_s == pytest.approx(2 * FAST_EDGE.delay_s, rel=0.1)
    assert control.monitor.verify_base_s == pytest.approx(FAST_EDGE.forward.seconds(1), rel=0.05)
    assert control.thresholds["greedy"] > (0.3, 0.3), "from the defaults, 0.1 and 0.2"
    defaults = play(lambda *where: Simulation(where[0], Ours(), *where[1:]).run(), scripts, FAST_EDGE)
    cloud = play(lambda *where: Simulation(where[0], Ours(drafts=False), *where[1:]).run(), scripts, FAST_EDGE)
    assert figures.tpt_ms < 0.9 * defaults.tpt_ms < 0.5 * cloud.tpt_ms


def test_a_narrow_uplink(scripts: list[Script]) -> None:
    """10 kbit/s: a message of one token takes longer than drafting one."""
    agent = Started("offload")
    figures = play(agent, scripts, NARROW[0])
    control = agent.controller.figures()
    assert control.monitor is not None
    assert control.monitor.message_s is not None
    assert 0.045 < control.monitor.message_s < 0.065
    assert control.plan is not None
    assert max(control.plan) > 1
    assert figures.forwards < 0.5 * figures.tokens


def test_where_the_target_is_far_faster_nothing_is_drafted(scripts: list[Script]) -> None:
    agent = Started("latency")
    figures = play(agent, scripts[:4], PAPER[2])
    cloud = play(lambda *where: Simulation(where[0], Ours(drafts=False), *where[1:]).run(), scripts[:4], PAPER[2])
    assert figures.tpt_ms < 1.02 * cloud.tpt_ms
