"""The real parts: what they are configured with, and what their records say."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.proving.real.asking import configuration, figures_of, questions
from bench.proving.real.cells import METHODS
from pipesd_agent.config import load
from pipesd_core.protocol.messages import Endpoint


@pytest.mark.parametrize("method", METHODS)
def test_the_agent_is_configured_as_the_simulation(method: str, tmp_path: Path) -> None:
    ours = METHODS[method]
    file = tmp_path / "agent.toml"
    file.write_text(configuration("http://127.0.0.1:1", ours, tmp_path / "traces"))
    config = load({}, {}, file)
    assert (config.trigger, config.session, config.batcher) == (ours.trigger, ours.session, ours.batcher)
    assert (config.mode == "cloud", config.draft_model is None) == (not ours.drafts, not ours.drafts)


def test_a_record_as_figures() -> None:
    counts = {"forwards": 3, "navs": 2, "wishes": 2, "sent": 8, "accepted": 6, "drafted": 9, "rollbacks": 1}
    record = {"seconds": 1.5, "output_tokens": 9, "counts": counts | {"rejected": 2}}
    figures = figures_of(record, 300, 900)
    assert figures.row()["tpt_ms"] == pytest.approx(1500 / 9)
    assert (figures.navs, figures.forwards, figures.rollbacks, figures.bytes_down) == (2, 3, 1, 900)


@pytest.mark.parametrize("count", [1, 4, 7, 40])
def test_questions_are_those_of_the_table(count: int) -> None:
    asked = questions("chat", 1.0, count)
    assert len({question.script.name for question in asked}) == count
    assert all(question.endpoint is Endpoint.CHAT_COMPLETIONS for question in asked)
    assert all(b'"stream":true' in question.script.body for question in asked)
