"""Many clients at once: all get right answers, in turn where they have to wait, and are told so where they may not."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from harness import (
    LONG,
    MODEL,
    Asking,
    Outcome,
    Process,
    agent_process,
    complete,
    gateway,
    in_parallel,
    openai_error,
    prompts,
    slow_agent,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

TOKENS = 24
CLIENTS = 12
GREEDY: dict[str, Any] = {"max_tokens": TOKENS, "temperature": 0}
SAMPLED: dict[str, Any] = {"max_tokens": TOKENS, "temperature": 0.8, "seed": 3}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with gateway(tmp_path_factory.mktemp("gateway"), "--max-queue", "9") as process:
        yield process


@pytest.fixture(scope="module")
def agent(target: Process, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with agent_process(tmp_path_factory.mktemp("agent"), target.root) as process:
        yield process


@pytest.fixture(scope="module")
def target_only(target: Process) -> list[str]:
    """What the target writes, one request at a time: greedy for even numbers, sampled for odd ones."""
    return [complete(target.url, prompt, **parameters(i))[0] for i, prompt in enumerate(prompts(CLIENTS))]


def parameters(number: int) -> dict[str, Any]:
    return SAMPLED if number % 2 else GREEDY


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("clients", [4, CLIENTS])
def test_all_get_right_answers(agent: Process, target_only: list[str], clients: int, stream: bool) -> None:
    def ask(number: int) -> tuple[str, int]:
        text, _, usage = complete(agent.url, prompts(clients)[number], stream=stream, **parameters(number))
        accepted: int = usage["pipesd"]["accepted"]
        return text, accepted

    answers = in_parallel(ask, list(range(clients)), clients)
    assert [text for text, _ in answers] == target_only[:clients]
    assert sum(accepted for _, accepted in answers) > 0, "nobody was drafted for"


def test_clients_of_the_gateway_and_of_the_agent_together(
    target: Process, agent: Process, target_only: list[str]
) -> None:
    def ask(number: int) -> str:
        return complete((target, agent)[number // 2 % 2].url, prompts(8)[number], **parameters(number))[0]

    assert in_parallel(ask, list(range(8)), 8) == target_only[:8]


def test_beyond_the_drafters_capacity_answers_are_cloud_only(
    target: Process, target_only: list[str], tmp_path: Path
) -> None:
    with agent_process(tmp_path, target.root, "--capacity", "1") as small:

        def ask(number: int) -> str:
            return complete(small.url, prompts(8)[number], stream=number < 4, **parameters(number))[0]

        assert in_parallel(ask, list(range(8)), 4) == target_only[:8]
        small.stop()
        assert "is served cloud-only: drafter_capacity" in small.log.read_text()


@pytest.mark.parametrize("stream", [True, False])
def test_beyond_the_queue_a_429_says_when_to_try_again(tmp_path: Path, stream: bool) -> None:
    with (
        gateway(tmp_path, "--n-seq", "1", "--max-queue", "1", "--step-floor-ms", "50") as target,
        slow_agent(tmp_path, target.root) as agent,
    ):
        long = Asking(agent.url, LONG, max_tokens=600, temperature=0)
        assert long.first.wait(20)
        waiting = Asking(agent.url, "x", max_tokens=4, temperature=0, stream=stream)
        time.sleep(1.0)  # it is in the queue now; nothing that a client sees tells
        for url in (agent.url, target.url):
            body = {"model": MODEL, "prompt": "x", "max_tokens": 1, "stream": stream}
            refused = httpx.post(f"{url}/completions", json=body, timeout=10)
            error = openai_error(refused, 429)
            assert error["code"] == "overloaded"
            assert "try again" in error["message"]
            assert int(refused.headers["retry-after"]) >= 1
        with (
            openai.OpenAI(base_url=agent.url, api_key="none", max_retries=0) as sdk,
            pytest.raises(openai.RateLimitError),
        ):
            sdk.completions.create(model=MODEL, prompt="x", max_tokens=1, stream=stream)
        assert long.running, "the answer in front was too short for this test"
        assert waiting.running
        agent.stop()
        for asking in (long, waiting):
            outcome: Outcome = asking.wait(10)
            assert outcome.error or outcome.complete


HOLD = """
import sys, httpx
url, model, prompt = sys.argv[1:]
body = {"model": model, "prompt": prompt, "max_tokens": 1500, "temperature": 0, "ignore_eos": True, "stream": True}
with httpx.stream("POST", url, json=body, timeout=120) as response:
    for line in response.iter_lines():
        print(line, flush=True)
"""
"""A client that holds the only place, until it is killed."""


def test_who_waits_in_the_queue_sees_that_the_server_lives(tmp_path: Path) -> None:
    """A stream of the gateway, of the agent and one that the agent forwards, a chat at the terminal and the SDK."""
    with (
        gateway(tmp_path, "--n-seq", "1", "--step-floor-ms", "50") as target,
        slow_agent(tmp_path, target.root) as agent,
        contextlib.ExitStack() as stack,
    ):
        holding = [sys.executable, "-c", HOLD, f"{agent.url}/completions", MODEL, LONG]
        long = stack.enter_context(subprocess.Popen(holding, stdout=subprocess.PIPE))
        stack.callback(long.kill)
        assert long.stdout is not None
        assert long.stdout.readline()
        typing = [sys.executable, "-m", "pipesd_agent", "chat", "--url", agent.url, "--max-tokens", "4"]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        chat = stack.enter_context(subprocess.Popen(typing, text=True, **pipes))
        assert chat.stdin is not None
        chat.stdin.write("hello\n")
        chat.stdin.flush()
        body = {"model": MODEL, "prompt": "x", "max_tokens": 8, "stream": True}
        streams = [
            stack.enter_context(httpx.stream("POST", f"{url}/completions", json=body | more, timeout=60))
            for url, more in ((target.url, {}), (agent.url, {}), (agent.url, {"n": 2}))
        ]
        assert [stream.status_code for stream in streams] == [200] * 3
        texts = [stream.iter_text() for stream in streams]
        assert [next(text).partition("\n\n")[0] for text in texts] == [": queued"] * 3
        sdk = stack.enter_context(openai.OpenAI(base_url=agent.url, api_key="none", max_retries=0))
        chunks = sdk.completions.create(model=MODEL, prompt="x", max_tokens=8, stream=True, seed=5)
        assert long.poll() is None, "the answer in front was too short for this test"
        long.kill()  # a client that goes away
        rest = ["".join(text) for text in texts]
        assert [text.endswith("data: [DONE]\n\n") for text in rest] == [True] * 3
        told = "".join(chunk.choices[0].text for chunk in chunks)
        assert told == complete(target.url, "x", max_tokens=8, seed=5)[0]
        again = body | {"stream": False, "seed": int(streams[1].headers["x-pipesd-seed"])}
        same = httpx.post(f"{target.url}/completions", json=again, timeout=60).json()["choices"][0]["text"]
        events = [event for event in rest[1].split("\n\n") if event.startswith("data: {")]
        assert "".join(json.loads(event[6:])["choices"][0]["text"] for event in events) == same
        said, _ = chat.communicate(timeout=60)
        assert chat.returncode == 0, said
        assert "queued" not in said
        assert "keep-alive" not in said
