"""`usage.pipesd` and `timings` are all that an agent's answer has more than its gateway's, and they are true."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from event_stream import data_of
from harness import DRAFT, LONG, MODEL, AgentThread, Process, agent_thread, gateway

from pipesd_agent.config import AgentConfig

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

TOKENS = 40
BODY: dict[str, Any] = {"model": MODEL, "max_tokens": TOKENS, "ignore_eos": True, "temperature": 0, "logprobs": 1}
"""Ends at max_tokens: the drafter has stopped by then, so no count moves after the answer."""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with gateway(tmp_path_factory.mktemp("gateway")) as process:
        yield process


@pytest.fixture(scope="module")
def agent(target: Process) -> Iterator[AgentThread]:
    with agent_thread(AgentConfig(gateway=target.root, draft_model=Path(DRAFT))) as thread:
        yield thread


def ask(url: str, **body: Any) -> tuple[list[dict[str, Any]], str]:
    """(JSON payloads without what differs between any two answers, request id)."""
    response = httpx.post(f"{url}/completions", json=BODY | body, timeout=120)
    assert response.status_code == 200, response.text
    lines = [response.text]
    if body.get("stream"):
        lines = list(data_of(response))
        assert lines.pop() == "[DONE]"
    payloads = [json.loads(line) for line in lines]
    for payload in payloads:
        del payload["id"], payload["created"]
    return payloads, response.headers["x-request-id"]


def record_of(agent: AgentThread, request_id: str) -> dict[str, Any]:
    """The agent's record of a request that is over."""
    record: dict[str, Any] = httpx.get(f"{agent.url}/pipesd/requests/{request_id}", timeout=10).json()
    return record


def joined(payloads: list[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """(text, last payload): where a stream is cut into chunks depends on the drafts."""
    return "".join(choice["text"] for payload in payloads for choice in payload["choices"]), payloads[-1]


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_has_them_beside_what_the_gateways_own_has(target: Process, agent: AgentThread, stream: bool) -> None:
    body: dict[str, Any] = {"prompt": LONG, "stream": stream}
    if stream:
        body["stream_options"] = {"include_usage": True}
    own, (ours, request_id) = ask(target.url, **body)[0], ask(agent.url, **body)
    assert all(payload.get("usage") is None and "timings" not in payload for payload in ours[:-1])
    drafts, timings = ours[-1]["usage"].pop("pipesd"), ours[-1].pop("timings")
    assert joined(ours) == joined(own)

    record = record_of(agent, request_id)
    counts = record["counts"]
    assert drafts == {
        "drafted": counts["drafted"],
        "accepted": counts["accepted"],
        "rejected": counts["rejected"],
        "target_forwards": counts["forwards"],
    }
    assert drafts["accepted"] == sum(drafted for _, drafted in record["tokens"]) > 0
    assert drafts["accepted"] + drafts["rejected"] == counts["sent"] <= drafts["drafted"]
    assert 1 < drafts["target_forwards"] < TOKENS

    usage = ours[-1]["usage"]
    assert (timings["prompt_n"], timings["predicted_n"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert (timings["draft_n"], timings["draft_n_accepted"]) == (counts["sent"], counts["accepted"])
    assert timings["predicted_per_second"] == pytest.approx(1e3 * TOKENS / timings["predicted_ms"])
    assert 0 < timings["prompt_ms"] + timings["predicted_ms"] <= 1e3 * record["seconds"] + 1


def test_a_stream_without_usage_has_none(target: Process, agent: AgentThread) -> None:
    own, ours = ask(target.url, prompt=LONG, stream=True)[0], ask(agent.url, prompt=LONG, stream=True)[0]
    assert joined(ours)[0] == joined(own)[0]
    assert {frozenset(payload) for payload in ours} == {frozenset(payload) for payload in own}
    assert not any("timings" in payload or "usage" in payload for payload in ours)


def test_answers_with_several_choices_have_none(target: Process, agent: AgentThread) -> None:
    body = {"prompt": "def f(", "n": 2, "seed": 3}
    assert ask(agent.url, **body)[0] == ask(target.url, **body)[0]
