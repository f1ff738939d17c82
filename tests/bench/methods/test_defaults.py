"""The grid that the agent's defaults are from."""

from __future__ import annotations

from made import scripted

from bench.proving.methods.defaults import DEMO, line, play
from bench.proving.simulator.simulation import Ours
from pipesd_agent.control.triggers import DualSettings
from pipesd_agent.session.settings import SessionSettings


def test_a_line_of_the_grid() -> None:
    script = scripted("." * 40)
    figures = play([script, script], Ours(DualSettings(r1=0.0, r2=0.0), SessionSettings(window=8)))
    assert (figures.answers, figures.tokens) == (2, 80)
    forwards, tpt_ms, rejected, navs = map(float, line(figures).split())
    assert 1 / 8 < forwards < 1 / 4
    assert rejected == 0
    assert navs <= forwards
    assert 40 * forwards < tpt_ms < 1.5 * 40 * forwards


def test_the_demo_s_link_costs_nothing_per_byte() -> None:
    assert 8 * 10_000 / DEMO.up.at(0) < 1e-6
