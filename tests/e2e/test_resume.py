"""A link that is cut, and a gateway that is killed and comes back, are a pause for the client and nothing else.

Real processes and sockets; answers of three seconds and more, in mid-answer when it happens.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from event_stream import data_of
from four_answers import FLOOR, asked, assert_right, modes, truth
from harness import MODEL, free_port, gateway, slow_agent, wait_until
from relay import Relay

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

TOKENS = 200


@modes
def test_a_link_that_is_cut_again_and_again(mode: str, tmp_path: Path) -> None:
    with gateway(tmp_path, *FLOOR) as target:
        expected = truth(target, TOKENS)
        relay = Relay(int(target.url.split(":")[2].split("/")[0]))
        try:
            with slow_agent(tmp_path, relay.url, "--mode", mode, grace_s=30) as agent:
                askings = asked(agent.url, TOKENS)
                # Opened, all four: the agent says more of them than that it wants them.
                wait_until(
                    lambda: len({s.message.channel for s in relay.sent() if s.message and s.kind != "open"}) == 4
                )
                for _ in range(3):
                    relay.cut()
                    time.sleep(1.0)
                assert_right(askings, expected)
                resumed = [sent for sent in relay.sent() if sent.kind == "resume"]
                assert len(resumed) >= 4
                assert sum(sent.kind == "open" for sent in relay.sent()) == 4, "nothing had to be asked again"
        finally:
            relay.close()
        assert "Traceback" not in target.log.read_text() + agent.log.read_text()


@modes
def test_a_gateway_that_is_killed_and_comes_back(mode: str, tmp_path: Path) -> None:
    port = free_port()
    with gateway(tmp_path, "--port", str(port), *FLOOR) as target:
        expected = truth(target, TOKENS)
        with slow_agent(tmp_path, f"http://127.0.0.1:{port}", "--mode", mode, grace_s=60) as agent:
            askings = asked(agent.url, TOKENS)
            target.kill()
            with gateway(tmp_path, "--port", str(port), *FLOOR):
                assert_right(askings, expected)
        assert "Traceback" not in agent.log.read_text()


def test_the_client_sees_one_answer(tmp_path: Path) -> None:
    """Also of a chat without a seed, at a gateway that knows nothing of the first one: one id, one role, one end."""
    port = free_port()
    body = {
        "model": MODEL,
        "stream": True,
        "max_tokens": 150,
        "ignore_eos": True,
        "temperature": 1.0,
        "stream_options": {"include_usage": True},
    }
    body["messages"] = [{"role": "user", "content": "def"}]
    target_only = {name: value for name, value in body.items() if not name.startswith("stream")}
    chunks: list[dict[str, Any]] = []
    with (
        contextlib.ExitStack() as stack,
        gateway(tmp_path, "--port", str(port), *FLOOR) as target,
        slow_agent(tmp_path, f"http://127.0.0.1:{port}", grace_s=60) as agent,
    ):
        with httpx.stream("POST", f"{agent.url}/chat/completions", json=body, timeout=60) as response:
            seed = int(response.headers["x-pipesd-seed"])
            for data in data_of(response):
                if data == "[DONE]":
                    break
                chunks.append(json.loads(data))
                assert "error" not in chunks[-1]
                if len(chunks) == 10:
                    target.kill()
                    successor = stack.enter_context(gateway(tmp_path, "--port", str(port), *FLOOR))
        whole = httpx.post(f"{successor.url}/chat/completions", json=target_only | {"seed": seed}, timeout=60).json()
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == whole["choices"][0]["message"]["content"]
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    assert [delta.get("role") for delta in deltas].count("assistant") == 1
    ends = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
    assert ends == [whole["choices"][0]["finish_reason"]]
    usage = chunks[-1]["usage"]
    assert usage["completion_tokens"] == whole["usage"]["completion_tokens"]
