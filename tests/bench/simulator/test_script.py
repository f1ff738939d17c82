"""Reading a trace as a run does."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from made import scripted

from bench.proving.methods.baselines import LEAN_SYSTEM, Method, Play
from bench.proving.simulator.scenario import LAPTOP
from bench.proving.simulator.script import Script
from bench.proving.simulator.simulation import Ours, Simulation
from bench.proving.traces.recorded import recorded
from bench.proving.traces.stochastic import make_table
from bench.proving.traces.table import DEPTH, NOTHING
from pipesd_agent.control.batchers import Immediate
from pipesd_agent.control.triggers import BY_ENTROPY, TriggerSettings
from pipesd_agent.session.policies import Policies
from pipesd_agent.session.settings import SessionSettings


def test_a_right_path_goes_on_for_ever() -> None:
    script = scripted("." * 60)
    tokens = [script.draft(n, n) for n in range(60)]
    assert [token.token for token in tokens if token] == list(range(100, 160))
    assert [token.position for token in tokens if token] == list(range(10, 70))


def test_astray_it_follows_the_row_of_its_first_wrong_token() -> None:
    script = scripted("..x.....", {2: 0.25, 3: 0.5})
    first, second = script.draft(2, 2), script.draft(2, 3)
    assert first is not None
    assert second is not None
    assert (first.token, first.position) == (1, 12)
    assert first.confidence == pytest.approx(0.25)
    assert (second.token, second.position) == (1, 13)
    assert not script.right[2]
    assert script.right[3]


def test_too_far_astray_there_is_nothing() -> None:
    script = scripted("x" + "." * 60)
    assert script.draft(0, DEPTH - 1) is not None
    assert script.draft(0, DEPTH) is None


@pytest.mark.parametrize("kind", BY_ENTROPY)
def test_triggers_by_entropy_refuse_a_trace_that_knows_none(kind: str) -> None:
    script = scripted("....")
    settings = msgspec.convert({"kind": kind}, TriggerSettings)
    with pytest.raises(ValueError, match=r"made: trigger \w+ goes by the drafter's entropy, which"):
        Simulation(script, Ours(settings), LAPTOP)
    with pytest.raises(ValueError, match="does not know"):
        Play(script, Method("m", settings), LAPTOP, LEAN_SYSTEM)
    with pytest.raises(ValueError, match="does not know"):
        Simulation(script, Ours(), LAPTOP, policies=Policies(settings.make(), Immediate()))


def test_recorded_tables_know_entropies_and_made_up_ones_do_not() -> None:
    assert all(Script(trace).knows_entropy for trace in recorded("chat", 0.0).traces)
    assert not any(Script(trace).knows_entropy for trace in make_table("m", 2, 60).traces)


def test_a_drafter_that_has_nothing_is_not_one_that_is_cut_off() -> None:
    trace = recorded("humaneval", 0.0).traces[0]
    drafts = trace.drafts.copy()
    drafts[3, 2:] = NOTHING
    script = Script(replace(trace, drafts=drafts))
    assert script.exhausted(3, 5)
    assert script.draft(3, 5) is None
    assert not script.exhausted(3, 4)
    assert not script.exhausted(3, 3 + DEPTH), "the table ends there, not the drafter"
    assert script.draft(3, 3 + DEPTH) is None


def test_an_answer_ends_though_the_drafter_has_nothing_for_half_of_it() -> None:
    trace = recorded("humaneval", 0.0).traces[0]
    waiting = Ours(session=SessionSettings(free_start=1))
    drafts = trace.drafts.copy()
    drafts[: len(drafts) // 2] = NOTHING
    figures = Simulation(Script(replace(trace, drafts=drafts)), waiting, LAPTOP).run()
    assert 0 < figures.accepted <= figures.sent
    assert len(drafts) // 2 < figures.forwards < len(drafts)
    drafts[:] = NOTHING
    figures = Simulation(Script(replace(trace, drafts=drafts)), waiting, LAPTOP).run()
    assert (figures.sent, figures.forwards) == (0, len(trace.tokens))
