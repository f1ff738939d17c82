"""The agent's HTTP side over a link that answers as the test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from event_stream import data_as_it_comes
from fake_gateway import answer, opened, verdict
from test_agent import FakeLink, Script, accepts, agent_over, completes, waits
from test_stream import sent

from pipesd_agent.agent import Agent
from pipesd_agent.api.app import create_app
from pipesd_agent.drafting.lookup import LookupDrafter
from pipesd_agent.drafting.worker import DraftWorker
from pipesd_agent.session.session import State
from pipesd_agent.session.stream import RequestStream
from pipesd_core.errors import Unavailable
from pipesd_core.protocol.messages import Close, End, Event, Failed
from pipesd_core.service.api_keys import Keys


@asynccontextmanager
async def client_of(script: Script) -> AsyncIterator[tuple[httpx.AsyncClient, Agent, FakeLink]]:
    agent, link = agent_over(script)
    transport = httpx.ASGITransport(create_app(agent), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
        yield client, agent, link


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


async def test_a_whole_answer_and_its_record() -> None:
    async with client_of(completes) as (client, _, _link):
        response = await client.post("/v1/completions", json={}, headers={"x-request-id": "mine"})
        assert (response.status_code, response.text) == (200, "{}")
        assert response.headers["x-pipesd-seed"] == "7"
        record = (await client.get("/v1/pipesd/requests/mine")).json()
        assert record["tokens"] == [[5, False]]
        unknown = error_of(await client.get("/v1/pipesd/requests/x"), 404)
        assert "no request 'x' is running or remembered" in unknown["message"]


async def test_the_record_of_a_request_that_runs() -> None:
    def begins(stream: RequestStream, _: bool) -> None:
        for message in answer(3)[:2]:
            stream.receive(message)

    async with client_of(begins) as (client, _, link):
        asking = asyncio.create_task(client.post("/v1/completions", json={}, headers={"x-request-id": "mine"}))
        async with asyncio.timeout(10):
            while (shown := await client.get("/v1/pipesd/requests/mine")).status_code == 404:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert (shown.json()["finished"], shown.json()["tokens"]) == (False, [[5, False]])
        for message in answer(3)[2:]:
            link.streams[0].receive(message)
        assert (await asking).status_code == 200
        assert (await client.get("/v1/pipesd/requests/mine")).json()["finished"]


async def test_metrics_are_shown_without_a_key() -> None:
    agent, _ = agent_over(completes)
    transport = httpx.ASGITransport(create_app(agent, keys=Keys(frozenset({"k"}))), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
        response = await client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'pipesd_agent_requests_received_total{route="session"} 0.0\n' in response.text


async def test_a_stream_and_its_record() -> None:
    async with client_of(completes) as (client, agent, _):
        async with client.stream("POST", "/v1/chat/completions", json={"stream": True}) as response:
            assert [data async for data in data_as_it_comes(response)] == ["{}", "[DONE]"]
        assert response.headers["content-type"].startswith("text/event-stream")
        assert agent.records.get(response.headers["x-request-id"]) is not None


@pytest.mark.parametrize("stream", [True, False])
async def test_what_the_gateway_refuses(stream: bool) -> None:
    body = {"error": {"message": "all places are taken", "type": "rate_limit_error", "param": None, "code": "x"}}

    def refuse(stream: RequestStream, _: bool) -> None:
        stream.receive(Failed(3, "x", 429, json.dumps(body).encode(), 2))

    async with client_of(refuse) as (client, _, _link):
        response = await client.post("/v1/completions", json={"stream": stream})
        assert error_of(response, 429) == body["error"]
        assert 2 <= int(response.headers["retry-after"]) <= 3


@pytest.mark.parametrize("stream", [True, False])
async def test_no_link(stream: bool) -> None:
    async with client_of(completes) as (client, _, link):
        link.failure = Unavailable("cannot reach the gateway")
        assert "cannot reach" in error_of(await client.post("/v1/completions", json={"stream": stream}), 503)["message"]


async def test_a_link_that_is_lost_in_mid_answer() -> None:
    def lose(stream: RequestStream, _: bool) -> None:
        stream.receive(opened(3))
        stream.receive(verdict(3, 1, 2, 5))
        stream.receive(Event(3, 2, 3, b'{"some": "text"}'))
        stream.link_lost(Unavailable("gone; try again"))

    async with client_of(lose) as (client, _, _link):
        response = await client.post("/v1/completions", json={"stream": True})
        first, last = (line for line in response.text.split("\n\n") if line)
        assert first == 'data: {"some": "text"}'
        assert json.loads(last.removeprefix("data: "))["error"]["message"] == "gone; try again"
        assert "[DONE]" not in response.text


async def test_an_end_without_an_answer() -> None:
    def nothing(stream: RequestStream, _: bool) -> None:
        stream.receive(opened(3))
        stream.receive(End(3, 1))

    async with client_of(nothing) as (client, _, _link):
        error = error_of(await client.post("/v1/completions", json={}), 503)
        assert "without an answer" in error["message"]


async def test_an_answer_with_a_usage_that_is_none_never_looks_complete() -> None:
    """A gateway that lies is a bug, not an answer."""

    def lie(stream: RequestStream, _: bool) -> None:
        stream.receive(opened(3))
        stream.receive(Event(3, 1, 3, b"{}", usage=True))
        stream.receive(End(3, 2))

    async with client_of(lie) as (client, _, _link):
        assert error_of(await client.post("/v1/completions", json={}), 500)["code"] == "engine_failed"


@pytest.mark.parametrize("script", [waits, accepts])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_closes_its_session(script: Script, stream: bool) -> None:
    async with client_of(script) as (client, _, link):
        app: Any = client._transport.app  # type: ignore[attr-defined]
        body = json.dumps({"stream": stream}).encode()
        left = asyncio.Event()
        incoming = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if incoming:
                return incoming.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(_: Any) -> None:
            pass

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "headers": [],
            "path": "/v1/completions", "raw_path": b"/v1/completions", "query_string": b"", "scheme": "http",
            "server": ("agent", 80), "client": ("me", 1), "root_path": "",
        }  # fmt: skip
        request = asyncio.create_task(app(scope, receive, send))
        async with asyncio.timeout(60):
            while not link.streams:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            left.set()
            await request
        assert sent(link.streams[0]) == [Close(3)]


async def test_keys() -> None:
    agent, _ = agent_over(completes)
    transport = httpx.ASGITransport(create_app(agent, keys=Keys(frozenset({"k"}))), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
        asked = [("POST", "completions"), ("POST", "chat/completions"), ("GET", "models"), ("GET", "pipesd/requests/x")]
        for header in ({}, {"authorization": "Bearer wrong"}):
            for method, path in asked:
                error = error_of(await client.request(method, f"/v1/{path}", headers=header, content=b"{}"), 401)
                assert error["code"] == "invalid_api_key"
        assert (await client.get("/health")).status_code == 200
        client.headers["authorization"] = "Bearer k"
        assert (await client.post("/v1/completions", json={})).status_code == 200
        assert (await client.get("/v1/models")).status_code == 200


async def test_a_broken_drafter_is_told_in_health() -> None:
    async with client_of(completes) as (client, agent, _):
        worker = agent.worker = DraftWorker(LookupDrafter(capacity=2, max_context=100))
        assert (await client.get("/health")).json()["drafter"] == {"capacity": 2, "max_context": 100, "free": 2}
        worker.broken = "MemoryError"
        assert (await client.get("/health")).json()["drafter"]["broken"] == "MemoryError"
        await worker.aclose()


async def test_uptime_is_a_duration_whatever_the_wall_clock_does(monkeypatch: pytest.MonkeyPatch) -> None:
    async with client_of(completes) as (client, _, _):
        monkeypatch.setattr("time.time", lambda: 0.0)
        assert (await client.get("/health")).json()["uptime_s"] >= 0


async def test_models_health_and_unknown_routes() -> None:
    async with client_of(completes) as (client, agent, _):
        assert (await client.get("/v1/models")).json() == {"object": "list", "data": []}
        agent.model_list.models = [{"id": "m"}]
        assert (await client.get("/v1/models")).json()["data"] == [{"id": "m"}]
        health = (await client.get("/health")).json()
        assert health.pop("load").keys() == {"sessions", "requests", "tasks"}
        assert [gateway["url"] for gateway in health.pop("gateways")] == ["http://127.0.0.1:1"]
        assert health.pop("uptime_s") >= 0
        drafting = {"state": "on", "drafter": "", "reason": None, "detail": ""}
        assert health == {"status": "ok", "gateway": "connected", "drafter": None, "drafting": drafting}
        error_of(await client.post("/embeddings", json={}), 404)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/completions"), ("GET", "/v1/responses"), ("POST", "/v1/models"), ("POST", "/v1/models/m")],
)
async def test_another_method_of_a_route_of_its_own_is_no_matter_of_the_gateway(method: str, path: str) -> None:
    async with client_of(completes) as (client, _, _link):
        response = await client.request(method, path)
        error_of(response, 405)
        assert response.headers["allow"] in ("POST", "GET, HEAD")


@pytest.mark.parametrize(
    ("body", "match"), [(b'{"stream": 1}', "stream must be true or false"), (b'{"x": NaN}', "not JSON")]
)
async def test_what_an_engine_reads_more_leniently_is_a_400(body: bytes, match: str) -> None:
    async with client_of(completes) as (client, _, link):
        answer = await client.post("/v1/completions", content=body)
        assert match in error_of(answer, 400)["message"]
        assert all(stream.session.state in (State.CLOSING, State.ENDED) for stream in link.streams)
