"""Readiness, and the drain after SIGTERM: what runs is finished, nothing new is begun, and all of it has a deadline."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import LONG, Asking, agent_process, free_port, gateway, openai_error, slow_agent, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

FLOOR = ("--step-floor-ms", "30")
LASTING: dict[str, Any] = {"max_tokens": 120, "temperature": 0}
ASK: dict[str, Any] = {"prompt": "x", "max_tokens": 4}


def running(url: str, count: int = 2, **parameters: Any) -> list[Asking]:
    askings = [Asking(url, LONG, stream=number % 2 == 0, **{**LASTING, **parameters}) for number in range(count)]
    for asking in askings:
        if askings.index(asking) % 2 == 0:
            assert asking.first.wait(30)
    time.sleep(0.5)  # the others, which do not stream, have begun too
    return askings


def refused(url: str) -> httpx.Response:
    response = httpx.post(f"{url}/completions", json=ASK, timeout=30)
    assert "shutting down" in openai_error(response, 503)["message"]
    assert 5 <= int(response.headers["retry-after"]) <= 60
    return response


def ready(root: str) -> int:
    return httpx.get(f"{root}/ready").status_code


def test_an_agent_is_ready_when_it_has_its_gateway(tmp_path: Path) -> None:
    port = free_port()
    with agent_process(tmp_path, f"http://127.0.0.1:{port}", draft=None) as agent:
        error = openai_error(httpx.get(f"{agent.root}/ready"), 503)
        assert "no link to the gateway" in error["message"]
        assert httpx.get(f"{agent.root}/health").status_code == 200
        with gateway(tmp_path, "--port", str(port)) as target:
            assert ready(target.root) == 200
            wait_until(lambda: ready(agent.root) == 200, 15)
            target.kill()
            wait_until(lambda: ready(agent.root) == 503)


@pytest.mark.parametrize("end", ["agent", "gateway"])
def test_what_runs_is_finished_and_nothing_new_is_begun(tmp_path: Path, end: str) -> None:
    drain = ("--drain-timeout", "60")
    with gateway(tmp_path, *FLOOR, *drain) as target, slow_agent(tmp_path, target.root, *drain) as agent:
        of_agent = running(agent.url)
        of_gateway = running(target.url) if end == "gateway" else []
        stopped = agent if end == "agent" else target
        stopped.send(signal.SIGTERM)
        wait_until(lambda: ready(stopped.root) == 503)
        assert httpx.get(f"{stopped.root}/health").status_code == 200
        refused(stopped.url)
        refused(agent.url)  # through the agent's open connection as well
        for asking in (*of_agent, *of_gateway):
            assert asking.running
        for asking in (*of_agent, *of_gateway):
            outcome = asking.wait(60)
            assert outcome.complete, outcome
            assert outcome.text
        assert stopped.stop() == 0  # it has ended, or does, by itself
        assert "Traceback" not in stopped.log.read_text()


@pytest.mark.parametrize("end", ["agent", "gateway"])
def test_what_is_not_finished_by_the_deadline_is_told(tmp_path: Path, end: str) -> None:
    drain = ("--drain-timeout", "1.5")
    with gateway(tmp_path, *FLOOR, *drain) as target, slow_agent(tmp_path, target.root, *drain) as agent:
        askings = running(agent.url, max_tokens=1500)
        stopped = agent if end == "agent" else target
        began = time.monotonic()
        assert stopped.stop() == 0
        assert time.monotonic() - began > 1.4
        for asking in askings:
            outcome = asking.wait(10)
            assert not outcome.complete
            assert outcome.error is not None
            assert "shutting down" in outcome.error["message"]


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_drain(tmp_path: Path, second: signal.Signals) -> None:
    with gateway(tmp_path, *FLOOR, "--drain-timeout", "600") as target:
        askings = running(target.url, max_tokens=1500)
        target.send(signal.SIGTERM)
        wait_until(lambda: ready(target.root) == 503)
        target.send(second)
        for asking in askings:
            outcome = asking.wait(10)
            assert outcome.error is not None
            assert "shutting down" in outcome.error["message"]
        assert target.stop() == 0


def test_an_idle_program_ends_at_once(tmp_path: Path) -> None:
    with gateway(tmp_path, "--drain-timeout", "600") as target, slow_agent(tmp_path, target.root) as agent:
        wait_until(lambda: ready(agent.root) == 200)
        assert target.stop() == 0, "the agent's link is no session, and 600 s are not waited for"
