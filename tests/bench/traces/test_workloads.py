"""The workloads are requests that a gateway takes."""

from __future__ import annotations

import pytest

from bench.proving.traces.workloads import COUNT, NAMES, workload
from pipesd_core.llamacpp.openai.request import parse
from pipesd_core.sampling.params import SamplingParams


@pytest.mark.parametrize("name", NAMES)
def test_a_workload_is_forty_different_requests(name: str) -> None:
    works = workload(name)
    assert len({work.name for work in works}) == len(works) == COUNT
    assert len({work.body(temperature=0, seed=1, max_tokens=2) for work in works}) == COUNT
    for work in works:
        request = parse(work.endpoint, work.body(temperature=0.5, seed=7, max_tokens=9, stream=True))
        assert (request.params, request.max_tokens, request.stream) == (SamplingParams(0.5, seed=7), 9, True)


def test_chats_have_several_turns_and_end_with_a_question() -> None:
    for work in workload("chat"):
        roles = [message["role"] for message in work.ask["messages"] if message["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        assert 3 <= len(roles) <= 7


def test_an_unknown_workload() -> None:
    with pytest.raises(ValueError, match="no workload 'gsm8k': choose one of humaneval, chat"):
        workload("gsm8k")
