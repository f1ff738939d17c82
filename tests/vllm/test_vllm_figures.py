"""What an operator sees in vLLM's own /metrics, and what an edge learns of each step."""

from __future__ import annotations

import re
import time
from typing import Any

import httpx
import pytest
from harness import MODEL, wait_until
from vllm_server import HEADERS, VllmServer, target_only
from vllm_wire import LONG, edge, park, receive

from pipesd_core.protocol.messages import Close, Draft, End, Endpoint, Event, Open, Reason, Verdict, encode

pytest_plugins = ("vllm_fixture",)
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]


def figures(server: VllmServer) -> dict[str, float]:
    """The plugin's samples, those of sessions without their label."""
    answer = httpx.get(f"{server.root}/metrics", headers=HEADERS, timeout=30)
    found = re.findall(r"^(pipesd_\w+)(?:{source=\"agent\"})? (\S+)$", answer.text, re.MULTILINE)
    return {name: float(value) for name, value in found}


def truth(server: VllmServer, count: int) -> list[int]:
    """Ids that the target writes after the prompt of LONG."""
    body: dict[str, Any] = {"model": MODEL, **LONG, "max_tokens": count, "return_token_ids": True}
    answer = httpx.post(f"{server.url}/completions", json=body, headers=HEADERS, timeout=60)
    ids: list[int] = answer.json()["choices"][0]["token_ids"]
    return ids


def test_rounds_and_sessions_are_counted(server: VllmServer) -> None:
    ids = truth(server, 60)
    before = figures(server)
    with edge(server) as socket:
        opened, position = park(socket)
        done = position - len(opened.prompt_ids)
        wait_until(lambda: figures(server)["pipesd_engine_sequences_parked"] == 1)
        right, wrong = ids[done : done + 4], (ids[done + 4] + 1) % 4096
        socket.send(encode(Draft.wishing(0, 1, position, (*right, wrong), position + 4)))
        while not (isinstance(message := receive(socket), Verdict) and message.reason is Reason.VERIFICATION):
            pass
        assert (message.verified, message.accepted, len(message.tokens)) == (5, 4, 5)
        assert 0 < message.queue_us < 10_000_000
        assert 0 < message.forward_us < 10_000_000
        after = figures(server)
    gained = {name: after[name] - before[name] for name in before}
    assert gained["pipesd_gateway_requests_received_total"] == 1
    assert gained["pipesd_gateway_time_to_first_token_seconds_count"] == 1
    assert gained["pipesd_gateway_inter_token_latency_seconds_count"] == done
    assert gained["pipesd_engine_verifying_steps_total"] == 1
    assert gained["pipesd_engine_draft_tokens_total"] == 5
    assert gained["pipesd_engine_accepted_draft_tokens_total"] == 4
    assert gained["pipesd_engine_steps_total"] == done + 1 == gained["pipesd_engine_step_tokens_count"]
    assert gained["pipesd_engine_step_tokens_sum"] == done + 5
    for name in ("queue", "forward"):
        assert gained[f"pipesd_engine_step_{name}_seconds_count"] == done + 1
        assert gained[f"pipesd_engine_step_{name}_seconds_sum"] > 0
    wait_until(
        lambda: (
            figures(server)["pipesd_engine_sequences_open"] == figures(server)["pipesd_engine_sequences_parked"] == 0
        )
    )


def test_a_session_that_nobody_drafts_for_runs_freely(server: VllmServer) -> None:
    expected = target_only(server.url, **LONG)[0]
    with edge(server) as socket:
        asked = b'{"model": "%s", "prompt": "%s", "max_tokens": %d, "temperature": 0, "ignore_eos": true}'
        body = asked % (MODEL.encode(), LONG["prompt"].encode(), LONG["max_tokens"])
        socket.send(encode(Open(0, 1, Endpoint.COMPLETIONS, body, None)))
        tokens, text = 0, b""
        while not isinstance(message := receive(socket), End):
            if isinstance(message, Verdict):
                assert message.reason is Reason.RUN
                assert len(message.tokens) == 1
                tokens += 1
            elif isinstance(message, Event):
                text += message.payload
        assert tokens == LONG["max_tokens"]
        assert expected.encode() in text
    assert server.engine()["sessions"] == 0


def test_a_free_run_that_is_closed_midway_frees_everything(server: VllmServer) -> None:
    with edge(server) as socket:
        body = b'{"model": "%s", "prompt": "x", "max_tokens": 900, "ignore_eos": true}' % MODEL.encode()
        socket.send(encode(Open(0, 1, Endpoint.COMPLETIONS, body, None)))
        while not isinstance(receive(socket), Verdict):
            pass
        socket.send(encode(Close(0)))
        while not isinstance(receive(socket), End):
            pass
        wait_until(lambda: server.engine()["sessions"] == 0)
        steps = server.engine()["steps"]
        time.sleep(0.5)
        assert server.engine()["steps"] == steps
