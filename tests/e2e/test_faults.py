"""Whatever dies, stops or leaves in mid-answer: every client's request ends within 10 s with an OpenAI-shaped error or
a right answer, an answer that is cut off never looks complete, and what was held for it is free again.

Real processes and real signals. A step takes 30 ms at least and decides two tokens at most, so that answers last.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
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
    complete,
    free_port,
    gateway,
    openai_error,
    slow_agent,
    wait_until,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

ENDS_WITHIN_S = 10.0
SLACK_S = 1.0
"""For a busy test machine; all that is bounded in the product is bounded by 9 s or less."""
FLOOR = ("--step-floor-ms", "30")
LASTING: dict[str, Any] = {"max_tokens": 900, "temperature": 0}
Fault = Callable[[Process], object]


def outcomes_after(url: str, fault: Callable[[], object], *, queued: int = 1) -> list[Outcome]:
    """What becomes of 4 answers in the making, streams and not, and of those in the queue, when something happens."""
    askings = [Asking(url, LONG, stream=number % 2 == 0, **LASTING) for number in range(4)]
    assert askings[0].first.wait(20)
    assert askings[2].first.wait(20)
    askings += [Asking(url, "x", stream=number % 2 == 0, **LASTING) for number in range(queued)]
    time.sleep(0.5)
    assert all(asking.running for asking in askings), [asking.outcome for asking in askings]
    at = time.monotonic()
    fault()
    outcomes = [asking.wait(ENDS_WITHIN_S + SLACK_S) for asking in askings]
    print(f"ended {max(asking.ended_at for asking in askings) - at:.1f} s after the fault")
    assert any(outcome.text for outcome in outcomes), "nothing was in mid-answer"
    return outcomes


def assert_slots_are_free(url: str, within_s: float = 5.0) -> None:
    """Four answers are written at the same time."""
    askings = [Asking(url, LONG, max_tokens=100, temperature=0) for _ in range(4)]
    for asking in askings:
        assert asking.first.wait(within_s)
    assert all(asking.running for asking in askings)
    for asking in askings:
        assert asking.wait(30).complete


@pytest.fixture(scope="module")
def port() -> int:
    """Of the gateway, which comes and goes in this module."""
    return free_port()


@pytest.fixture(scope="module")
def agent(port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One agent for the whole module, started before there is any gateway: it survives everything."""
    with slow_agent(tmp_path_factory.mktemp("agent"), f"http://127.0.0.1:{port}", "--log-level", "debug") as process:
        yield process


def assert_works(agent: Process, target: Process) -> None:
    """The agent finds its gateway again by itself, and answers as the target does."""
    expected, _, _ = complete(target.url, LONG, max_tokens=8, temperature=0)

    def right() -> bool:
        response = httpx.post(f"{agent.url}/completions", json={"prompt": LONG, "max_tokens": 8, "temperature": 0})
        if response.status_code != 200:
            openai_error(response, 503)
            return False
        assert response.json()["choices"][0]["text"] == expected
        return True

    wait_until(right, 15)


def test_an_agent_without_a_gateway_says_so_and_works_later(agent: Process, port: int, tmp_path: Path) -> None:
    for stream in (True, False):
        began = time.monotonic()
        response = httpx.post(f"{agent.url}/completions", json={"prompt": "x", "stream": stream}, timeout=15)
        assert time.monotonic() - began < ENDS_WITHIN_S
        message = openai_error(response, 503)["message"]
        assert f"cannot reach the gateway ws://127.0.0.1:{port}" in message
    assert "cannot reach" in httpx.get(f"{agent.root}/health").json()["gateway"]
    with gateway(tmp_path, "--port", str(port)) as target:
        assert_works(agent, target)
        assert httpx.get(f"{agent.root}/health").json()["gateway"] == "connected"
        wait_until(lambda: bool(httpx.get(f"{agent.url}/models").json()["data"]))


GATEWAY_FAULTS: dict[str, Fault] = {
    "SIGKILL": Process.kill,
    "SIGTERM": lambda process: process.send(signal.SIGTERM),
    "SIGSTOP": lambda process: process.send(signal.SIGSTOP),
}


@pytest.mark.parametrize("name", GATEWAY_FAULTS)
def test_a_gateway_that_goes_in_mid_answer(agent: Process, port: int, tmp_path: Path, name: str) -> None:
    with gateway(tmp_path, "--port", str(port), *FLOOR) as target:
        assert_works(agent, target)
        try:
            outcomes = outcomes_after(agent.url, lambda: GATEWAY_FAULTS[name](target))
        finally:
            if name == "SIGSTOP":
                target.send(signal.SIGCONT)
        for outcome in outcomes:
            assert not outcome.complete
            assert not outcome.broken
            assert outcome.error is not None
            assert outcome.error["type"] == "server_error"
            assert re.search("try again|shutting down", outcome.error["message"])
        if name == "SIGSTOP":  # it lives again, and has nothing left of what was before
            assert_works(agent, target)
            assert_slots_are_free(target.url)
        elif name == "SIGTERM":
            assert target.stop() == 0
    with gateway(tmp_path, "--port", str(port)) as successor:
        assert_works(agent, successor)


def test_the_openai_client_raises_when_a_stream_breaks_off(agent: Process, port: int, tmp_path: Path) -> None:
    with (
        gateway(tmp_path, "--port", str(port), *FLOOR) as target,
        openai.OpenAI(base_url=agent.url, api_key="none", max_retries=0) as sdk,
    ):
        assert_works(agent, target)
        stream = sdk.completions.create(model=MODEL, prompt=LONG, stream=True, **LASTING)
        next(stream)
        target.kill()
        with pytest.raises(openai.APIError, match="link to the gateway was lost"):
            list(stream)


@pytest.fixture(scope="module")
def floored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with gateway(tmp_path_factory.mktemp("gateway"), *FLOOR, "--grace", "1") as process:
        yield process


def test_an_agent_that_is_killed_in_mid_answer(floored: Process, tmp_path: Path) -> None:
    with slow_agent(tmp_path, floored.root) as agent:
        for outcome in outcomes_after(agent.url, agent.kill):
            assert outcome.broken
            assert not outcome.complete
    assert_slots_are_free(floored.url)


def test_an_agent_that_is_stopped_in_mid_answer(floored: Process, tmp_path: Path) -> None:
    with slow_agent(tmp_path, floored.root) as agent:
        for outcome in outcomes_after(agent.url, lambda: agent.send(signal.SIGTERM)):
            assert outcome.error is not None
            assert not outcome.complete
        assert agent.stop() == 0
        assert "Traceback" not in agent.log.read_text()
    assert_slots_are_free(floored.url)


def test_an_agent_that_freezes_in_mid_answer(floored: Process, tmp_path: Path) -> None:
    """Its clients freeze with it; the gateway does not wait for it."""
    with slow_agent(tmp_path, floored.root) as agent:
        askings = [Asking(agent.url, LONG, **LASTING) for _ in range(4)]
        for asking in askings:
            assert asking.first.wait(20)
        agent.send(signal.SIGSTOP)
        try:
            assert_slots_are_free(floored.url, within_s=12)
        finally:
            agent.send(signal.SIGCONT)
        for asking in askings:
            assert asking.wait(ENDS_WITHIN_S).error is not None


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Process, Process]]:
    """A gateway with one place, and its agent."""
    with (
        gateway(tmp_path_factory.mktemp("narrow"), *FLOOR, "--n-seq", "1") as target,
        slow_agent(tmp_path_factory.mktemp("agent"), target.root) as agent,
    ):
        yield target, agent


@contextlib.contextmanager
def raw_request(url: str, stream: bool, receive_buffer: int = 0, **parameters: Any) -> Iterator[socket.socket]:
    """A request on a bare socket, which leaves it by closing."""
    address = httpx.URL(url)
    body = json.dumps({"prompt": LONG, "stream": stream, **LASTING, **parameters}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.socket() as client:
        client.settimeout(20)
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.connect((address.host, address.port))
        client.sendall(head.encode() + body)
        yield client


@pytest.mark.parametrize("through", ["agent", "gateway"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place_at_once(
    narrow: tuple[Process, Process], stream: bool, through: str
) -> None:
    target, agent = narrow
    url = agent.url if through == "agent" else target.url
    with raw_request(url, stream) as client:
        if stream:
            assert b"data: " in client.recv(65536) + client.recv(65536)
        else:
            time.sleep(1.0)
    began = time.monotonic()
    text, _, _ = complete(agent.url, LONG, max_tokens=2, temperature=0)
    # What the one before would have taken, 13.5 s: 900 tokens, two a step, 30 ms each.
    assert time.monotonic() - began < 12
    assert text


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_the_queue_is_not_served(narrow: tuple[Process, Process], stream: bool) -> None:
    _, agent = narrow
    with raw_request(agent.url, True) as front:
        front.recv(65536)
        with contextlib.ExitStack() as queue:
            for _ in range(4):
                queue.enter_context(raw_request(agent.url, stream))
            time.sleep(0.5)
        last = Asking(agent.url, LONG, max_tokens=2, temperature=0)
        time.sleep(0.5)
        assert last.running
    began = time.monotonic()
    assert last.wait(ENDS_WITHIN_S).complete
    assert time.monotonic() - began < 5


def test_a_client_that_never_reads_does_not_disturb_others(floored: Process, tmp_path: Path) -> None:
    with slow_agent(tmp_path, floored.root) as agent, contextlib.ExitStack() as clients:
        for _ in range(3):
            clients.enter_context(raw_request(agent.url, True, receive_buffer=2048))
        time.sleep(1.0)
        began = time.monotonic()
        for _ in range(3):
            complete(agent.url, LONG, stream=True, max_tokens=40, temperature=0)
        # 20 steps of 30 ms each; behind a stalled link they would wait until the silent clients are given up, 60 s.
        assert time.monotonic() - began < 50
        clients.close()
        assert_slots_are_free(agent.url)


def test_nothing_is_left_behind(narrow: tuple[Process, Process]) -> None:
    """Clients that come and leave in all stages cost no file, no task and no memory for good."""
    target, agent = narrow

    def files() -> int:
        return len(os.listdir(f"/proc/{target.pid}/fd")) + len(os.listdir(f"/proc/{agent.pid}/fd"))

    complete(agent.url, LONG, max_tokens=2, temperature=0)
    before = files()
    for number in range(60):
        with raw_request(agent.url, number % 2 == 0):
            time.sleep(0.01 * (number % 7))
    complete(agent.url, LONG, max_tokens=2, temperature=0)
    wait_until(lambda: files() <= before + 2)
    health = httpx.get(f"{agent.root}/health").json()
    assert health["gateway"] == "connected"
    agent.stop()
    assert "Traceback" not in agent.log.read_text()
    assert "ERROR" not in agent.log.read_text()
    assert "ERROR" not in target.log.read_text()
