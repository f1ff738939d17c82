"""The workloads are requests that a gateway takes."""

from __future__ import annotations

import pytest

from bench.proving.traces.workloads import COUNT, NAMES, REAL, REAL_KINDS, real_prompts, workload
from pipesd_core.llamacpp.openai.request import parse
from pipesd_core.sampling.params import SamplingParams


@pytest.mark.parametrize(("name", "count"), [*((name, COUNT) for name in NAMES), (REAL, 180)])
def test_a_workload_is_different_requests(name: str, count: int) -> None:
    works = workload(name)
    assert len({work.name for work in works}) == len(works) == count
    assert len({work.body(temperature=0, seed=1, max_tokens=2) for work in works}) == count
    for work in works:
        request = parse(work.endpoint, work.body(temperature=0.5, seed=7, max_tokens=9, stream=True))
        assert (request.params, request.max_tokens, request.stream) == (SamplingParams(0.5, seed=7), 9, True)


def test_chats_have_several_turns_and_end_with_a_question() -> None:
    for work in workload("chat"):
        roles = [message["role"] for message in work.ask["messages"] if message["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        assert 3 <= len(roles) <= 7


def test_the_kinds_of_real_prompts_are_mixed() -> None:
    counts = {kind: len(real_prompts(kind)) for kind in REAL_KINDS}
    assert counts == {"chat": 60, "summary": 40, "code": 40, "edit": 40}
    for part in (workload(REAL)[:45], workload(REAL)[::2], workload(REAL)[1::2]):
        for kind, count in counts.items():
            share = sum(work.name.startswith(kind) for work in part) / len(part)
            assert share == pytest.approx(count / 180, abs=0.04), kind


def test_an_unknown_workload() -> None:
    with pytest.raises(ValueError, match="no workload 'gsm8k': choose one of humaneval, chat, real"):
        workload("gsm8k")
    with pytest.raises(ValueError, match="no kind 'riddle': choose one of chat, summary, code, edit"):
        real_prompts("riddle")
