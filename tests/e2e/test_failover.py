"""Several gateways: what one began, the next one goes on with, when it dies and when it drains. Real processes."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from event_stream import data_of
from four_answers import FLOOR, asked, assert_right, modes, parameters, truth
from harness import (
    DRAFT,
    LONG,
    MODEL,
    Asking,
    Process,
    complete,
    free_port,
    gateway,
    openai_error,
    slow_agent,
    wait_until,
)
from relay import Relay

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

DRAIN = ("--drain-timeout", "60")
TOKENS = 150
GREEDY, SAMPLED = parameters(TOKENS)


def gateways(agent: Process) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = httpx.get(f"{agent.root}/health").json()["gateways"]
    return listed


def sessions(target: Process) -> int:
    """Number of sessions that run at a gateway."""
    found = re.search(
        r"^pipesd_gateway_sessions_resumable (\d+)", httpx.get(f"{target.root}/metrics").text, re.MULTILINE
    )
    assert found is not None
    return int(found[1])


def connected_to(agent: Process) -> list[bool]:
    return [listed["connected"] for listed in gateways(agent)]


@contextlib.contextmanager
def pair(directory: Path) -> Iterator[tuple[Process, Process, int]]:
    """Two gateways, which drain, and the port of the first."""
    port = free_port()
    for name in ("a", "b"):
        (directory / name).mkdir()
    with (
        gateway(directory / "a", "--port", str(port), *FLOOR, *DRAIN) as first,
        gateway(directory / "b", *FLOOR, *DRAIN) as second,
    ):
        yield first, second, port


@modes
def test_a_gateway_that_is_killed_has_its_answers_finished_by_the_next(mode: str, tmp_path: Path) -> None:
    with pair(tmp_path) as (first, second, port):
        expected = truth(second, TOKENS)
        with slow_agent(tmp_path, first.root, "--gateway", second.root, "--mode", mode, grace_s=30) as agent:
            askings = asked(agent.url, TOKENS)
            assert connected_to(agent) == [True, False]
            killed = time.monotonic()
            first.kill()
            wait_until(lambda: connected_to(agent) == [False, True])
            assert time.monotonic() - killed < 5
            assert_right(askings, expected)
            states = gateways(agent)
            assert states[0]["circuit"] in ("open", "half-open")
            assert states[0]["failures"] >= 1
            assert states[1]["circuit"] == "closed"
            # Forwarded requests follow.
            both = httpx.post(f"{agent.url}/completions", json={"prompt": "x", "n": 2, "max_tokens": 4}, timeout=30)
            assert len(both.json()["choices"]) == 2
            # The first one is back: the link stays where it is, until it ends.
            with gateway(tmp_path, "--port", str(port), *FLOOR) as back:
                assert complete(agent.url, LONG, **GREEDY)[0] == expected[0]
                assert connected_to(agent) == [False, True]
                askings = asked(agent.url, TOKENS)
                second.kill()
                assert_right(askings, expected)
                assert connected_to(agent) == [True, False]
            assert "Traceback" not in agent.log.read_text() + back.log.read_text()


@modes
def test_a_gateway_that_drains_has_its_answers_moved(mode: str, tmp_path: Path) -> None:
    with pair(tmp_path) as (first, second, _):
        expected = truth(second, TOKENS)
        # Without a grace time: the link is never away.
        with slow_agent(tmp_path, first.root, "--gateway", second.root, "--mode", mode) as agent:
            askings = asked(agent.url, TOKENS)
            assert first.stop() == 0
            assert all(asking.running for asking in askings), "it did not wait for them"
            assert connected_to(agent) == [False, True]
            assert complete(agent.url, "x", max_tokens=4)[1]
            assert_right(askings, expected)
            logs = agent.log.read_text() + first.log.read_text()
            assert "is draining" in logs
            assert "Traceback" not in logs


@pytest.mark.parametrize("end", ["drains", pytest.param("is killed", marks=pytest.mark.full)])
def test_a_load_balancer_s_address_is_many_gateways(end: str, tmp_path: Path) -> None:
    """What one of them began goes on at another, and no client is told that the first one ends."""
    with pair(tmp_path) as (first, second, _):
        relay = Relay(*(int(each.root.rpartition(":")[2]) for each in (first, second)))
        expected = truth(second, TOKENS)
        with slow_agent(tmp_path, relay.url, grace_s=30) as agent:
            askings = asked(agent.url, TOKENS)
            (has_it,) = [each for each in (first, second) if sessions(each) == len(askings)]
            if end == "drains":
                has_it.send(signal.SIGTERM)
            else:
                has_it.kill()
            assert complete(agent.url, "x", max_tokens=4)[1]
            both = httpx.post(f"{agent.url}/completions", json={"prompt": "x", "n": 2, "max_tokens": 4}, timeout=30)
            assert len(both.json()["choices"]) == 2
            assert_right(askings, expected)
            assert "Traceback" not in agent.log.read_text() + has_it.log.read_text()
            if end == "drains":
                assert has_it.stop() == 0
        relay.close()


def test_requests_never_stop_while_one_gateway_after_the_other_is_restarted(tmp_path: Path) -> None:
    with pair(tmp_path) as (first, second, port), contextlib.ExitStack() as stack:
        expected = truth(second, TOKENS)[0]
        agent = stack.enter_context(slow_agent(tmp_path, first.root, "--gateway", second.root, grace_s=30))
        askings = [Asking(agent.url, LONG, **GREEDY)]
        for round_ in range(2):
            assert askings[-1].first.wait(20)
            if round_ == 0:
                first.send(signal.SIGTERM)
                wait_until(lambda: connected_to(agent) == [False, True])
                assert first.stop() == 0
                stack.enter_context(gateway(tmp_path, "--port", str(port), *FLOOR))
            else:
                second.send(signal.SIGTERM)
                wait_until(lambda: connected_to(agent) == [True, False])
            askings.append(Asking(agent.url, LONG, **GREEDY))
        for asking in askings:
            outcome = asking.wait(60)
            assert outcome.complete, outcome
            assert outcome.text == expected
        assert "Traceback" not in agent.log.read_text()


@modes
def test_a_gateway_that_restarts_is_a_pause(mode: str, tmp_path: Path) -> None:
    """No other gateway: the answers are not finished by the drain's end, and the next instance goes on."""
    port = free_port()
    short = ("--port", str(port), *FLOOR, "--drain-timeout", "0.5")
    with gateway(tmp_path, *short) as target:
        expected = truth(target, TOKENS)
        with slow_agent(tmp_path, target.root, "--mode", mode, grace_s=60) as agent:
            askings = asked(agent.url, TOKENS)
            assert target.stop() == 0
            assert all(asking.running for asking in askings)
            with gateway(tmp_path, *short):
                assert_right(askings, expected)
            assert "Traceback" not in agent.log.read_text() + target.log.read_text()


def test_a_tool_call_s_stream_is_finished_where_it_began(tmp_path: Path) -> None:
    """What has more than text in it, here logprobs, cannot go on elsewhere: the old link stays for it alone."""
    with pair(tmp_path) as (first, second, _):
        body = {"model": MODEL, "prompt": LONG, "stream": True, "logprobs": 1, **GREEDY}
        with slow_agent(tmp_path, first.root, "--gateway", second.root) as agent:
            text, told = "", False
            with httpx.stream("POST", f"{agent.url}/completions", json=body, timeout=60) as response:
                assert response.status_code == 200
                for data in data_of(response):
                    if data == "[DONE]":
                        continue
                    event = json.loads(data)
                    assert "error" not in event
                    text += "".join(choice["text"] for choice in event["choices"])
                    if text and not told:
                        told = True
                        first.send(signal.SIGTERM)
                        wait_until(lambda: connected_to(agent) == [False, True])
                        assert complete(agent.url, "x", max_tokens=4)[1]
            assert text == complete(second.url, LONG, **GREEDY)[0]
            assert first.stop() == 0


def test_another_model_ends_the_answers_with_an_error_and_never_changes_them(tmp_path: Path) -> None:
    """The draft model as the second gateway: the same vocabulary, other tokens."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with (
        gateway(tmp_path / "a", *FLOOR) as first,
        gateway(tmp_path / "b", *FLOOR, "--name", MODEL, model=DRAFT) as second,
    ):
        expected = truth(first, TOKENS)
        assert truth(second, TOKENS) != expected
        with slow_agent(tmp_path, first.root, "--gateway", second.root, "--mode", "cloud", grace_s=20) as agent:
            streams = [Asking(agent.url, LONG, **asked_for) for asked_for in (GREEDY, SAMPLED)]
            for asking in streams:
                assert asking.first.wait(20)
            time.sleep(1.0)
            first.kill()
            outcomes = [asking.wait(60) for asking in streams]
            wrong = [outcome for outcome in outcomes if not outcome.complete]
            assert wrong, "one of them differs"
            for outcome, text in zip(outcomes, expected, strict=True):
                if outcome.complete:
                    assert outcome.text == text
                else:
                    assert outcome.error is not None
                    assert "cannot be gone on with elsewhere" in outcome.error["message"]
                    assert text.startswith(outcome.text)


def test_no_gateway_at_all(tmp_path: Path) -> None:
    urls = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    with slow_agent(tmp_path, urls[0], "--gateway", urls[1]) as agent:
        error = openai_error(httpx.post(f"{agent.url}/completions", json={"prompt": "x"}, timeout=30), 503)
        assert all(url.removeprefix("http://") in error["message"] for url in urls)
        assert [listed["url"] for listed in gateways(agent)] == urls
        assert all(listed["failures"] for listed in gateways(agent))
        assert httpx.get(f"{agent.root}/ready").status_code == 503
