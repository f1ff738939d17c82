"""Streams that wait, for the link or in the gateway's queue: headers, comments, then the answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
from fake_gateway import answer
from test_agent import FakeLink, Script, agent_over, completes, waits
from test_stream import sent

from pipesd_agent.agent import Agent
from pipesd_agent.api.app import create_app
from pipesd_core.errors import Unavailable
from pipesd_core.protocol.messages import Close, Failed
from pipesd_core.service import http, queued_stream
from pipesd_core.service.program import listen
from pipesd_core.service.server import Server

STREAMED = {"prompt": "x", "stream": True}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queued_stream, "PATIENCE_S", 0.05)
    monkeypatch.setattr(http, "COMMENT_EVERY_S", 0.05)


@asynccontextmanager
async def serving(script: Script) -> AsyncIterator[tuple[httpx.AsyncClient, Agent, FakeLink]]:
    """A real server, which sends each part of a stream at once."""
    agent, link = agent_over(script)
    listener = listen("127.0.0.1", 0)
    server = Server(create_app(agent), agent.aclose, log_level="warning")
    task = asyncio.create_task(server.serve([listener]))
    try:
        async with asyncio.timeout(30):
            while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                await asyncio.sleep(0.01)
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            async with httpx.AsyncClient(base_url=url, timeout=30) as client:
                yield client, agent, link
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 20)


def data(text: str) -> list[str]:
    """What a client reads of a stream: its comments are no events."""
    events = [event for event in text.split("\n\n") if event]
    return [event.removeprefix("data: ") for event in events if not event.startswith(": ")]


async def begun(events: AsyncIterator[str]) -> None:
    """The comments of a stream that waits."""
    assert (await anext(events)).startswith(": queued\n\n")
    assert (await anext(events)).startswith(": keep-alive\n\n")


async def metrics(client: httpx.AsyncClient) -> list[str]:
    return (await client.get("/metrics")).text.split("\n")


@pytest.mark.parametrize("asked", [{}, {"seed": 12}, {"seed": None}])
@pytest.mark.parametrize("link_is_up", [True, False])
async def test_a_stream_that_waits_has_its_headers_and_comments(asked: dict[str, Any], link_is_up: bool) -> None:
    async with serving(waits if link_is_up else completes) as (client, agent, link):
        if not link_is_up:
            link.up.clear()
        headers = {"x-request-id": "mine"}
        async with client.stream("POST", "/v1/completions", json=STREAMED | asked, headers=headers) as response:
            assert response.status_code == 200
            assert response.headers["content-type"].startswith("text/event-stream")
            assert response.headers["x-request-id"] == "mine"
            assert "x-pipesd-mode" not in response.headers
            seed = int(response.headers["x-pipesd-seed"])
            assert seed == (asked.get("seed") or seed)
            assert [json.loads(body) for body in link.bodies] == [STREAMED | {"seed": seed}]
            events = response.aiter_text()
            await begun(events)
            assert 'pipesd_agent_requests_waiting{route="session"} 1.0' in await metrics(client)
            assert 'pipesd_agent_time_to_first_token_seconds_count{route="session"} 0.0' in await metrics(client)
            link.up.set()
            if link_is_up:
                for message in answer(3):
                    link.streams[0].receive(message)
            assert data("".join([part async for part in events])) == ["{}", "[DONE]"]
        assert agent.records.get("mine") is not None
        assert 'pipesd_agent_requests_finished_total{outcome="completed",route="session"} 1.0' in await metrics(client)


async def test_what_fails_after_the_headers_is_an_error_event() -> None:
    body = {"error": {"message": "no place became free", "type": "rate_limit_error", "param": None, "code": "x"}}
    async with serving(waits) as (client, _, link):
        async with client.stream("POST", "/v1/completions", json=STREAMED) as response:
            assert response.status_code == 200
            link.streams[0].receive(Failed(3, "x", 429, json.dumps(body).encode(), 2))
            assert [json.loads(event) for event in data((await response.aread()).decode())] == [body]
        link.up.clear()
        link.failure = Unavailable("cannot reach the gateway")
        async with client.stream("POST", "/v1/completions", json=STREAMED) as response:
            assert response.status_code == 200
            link.up.set()
            (event,) = data((await response.aread()).decode())
            assert json.loads(event)["error"]["code"] == "unavailable"
        assert 'pipesd_agent_requests_finished_total{outcome="refused",route="session"} 2.0' in await metrics(client)
        assert 'pipesd_agent_requests_waiting{route="session"} 0.0' in await metrics(client)


async def test_whole_answers_wait_for_their_status() -> None:
    async with serving(completes) as (client, _, link):
        link.up.clear()
        link.failure = Unavailable("cannot reach the gateway")
        asked = asyncio.create_task(client.post("/v1/completions", json=STREAMED | {"stream": False}))
        done, _ = await asyncio.wait({asked}, timeout=0.3)
        assert not done
        link.up.set()
        assert (await asked).status_code == 503
        assert json.loads(link.bodies[0]) == STREAMED | {"stream": False}


async def test_a_client_that_leaves_while_it_waits_takes_its_request_back() -> None:
    async with serving(waits) as (client, agent, link):
        async with client.stream("POST", "/v1/completions", json=STREAMED) as response:
            await begun(response.aiter_text())
            assert sent(link.streams[0]) != [Close(3)]
        while agent._running:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert sent(link.streams[0]) == [Close(3)]
        assert 'pipesd_agent_requests_finished_total{outcome="aborted",route="session"} 1.0' in await metrics(client)


async def test_official_clients_do_not_see_the_comments() -> None:
    async with (
        serving(waits) as (client, _, link),
        openai.AsyncOpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as sdk,
    ):
        stream = await sdk.completions.create(model="m", prompt="x", stream=True)
        for message in answer(3):
            link.streams[0].receive(message)
        assert len([chunk async for chunk in stream]) == 1
        stream = await sdk.completions.create(model="m", prompt="x", stream=True)
        link.streams[1].link_lost(Unavailable("gone; try again"))
        with pytest.raises(openai.APIError, match="gone; try again"):
            async for _ in stream:
                pass
