"""What a client gets when the cloud is gone: by policy, labelled, never in silence."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import pytest
from decisions import Decider
from fake_gateway import gateways
from starlette.requests import Request
from test_agent import FakeLink
from test_app import error_of
from test_model import LABEL, TEXT, Maker, session

from pipesd_agent.agent import Agent
from pipesd_agent.api.app import create_app
from pipesd_agent.link.link import Link
from pipesd_agent.link.model_list import ModelList
from pipesd_agent.link.passthrough import PassthroughClient
from pipesd_agent.local.fallback import FallbackPolicy, fallback_policy, is_unavailable
from pipesd_agent.local.model import LocalModel
from pipesd_agent.session.observer import SessionObserver
from pipesd_agent.session.remote_error import RemoteError
from pipesd_agent.session.stream import RequestStream
from pipesd_core.errors import EngineFailed, InvalidRequest, Overloaded, Unauthorized, Unavailable
from pipesd_core.protocol.messages import End, Endpoint, Event, Failed, Reason, Verdict
from pipesd_core.service import queued_stream

GONE = Unavailable("cannot reach the gateway")


class LinkToStreams(FakeLink):
    """Gives out the streams that the test has made."""

    def __init__(self, *streams: RequestStream) -> None:
        super().__init__(lambda _stream, _collaborative: None)
        self.ready = list(streams)

    async def request(
        self,
        endpoint: Endpoint,
        body: bytes,
        request_id: str,
        *,
        collaborative: bool = True,
        observers: Sequence[SessionObserver] = (),
    ) -> RequestStream:
        if not self.ready:
            raise self.failure or GONE
        stream = self.ready.pop(0)
        if (opened := stream.session.opened) is not None:
            for observer in observers:
                observer.opened(opened, stream.session.counts, 0.0)
                tokens = tuple(stream.session.committed[len(opened.prompt_ids) :])
                Decider(observer).decided(Verdict(0, 1, 0, 0, 0, tokens, Reason.RUN, 0, 0, 0), 0.0)
        stream.request_id = request_id
        assert (endpoint, collaborative) == (Endpoint.COMPLETIONS, True)
        assert body
        return stream


@asynccontextmanager
async def client_of(
    *streams: RequestStream, policy: FallbackPolicy = "edge", local_only: bool = False, has_local_model: bool = True
) -> AsyncIterator[tuple[httpx.AsyncClient, LinkToStreams, Maker]]:
    maker, link = Maker(), LinkToStreams(*streams)
    local = LocalModel(maker) if has_local_model else None
    if local is not None and local_only:
        local.load()
    agent = Agent(
        cast(Link, link),
        ModelList(gateways("http://127.0.0.1:1"), None, None),
        PassthroughClient(gateways("http://127.0.0.1:1"), None, None),
        None,
        local=local,
        fallback=policy,
        local_only=local_only,
    )
    transport = httpx.ASGITransport(create_app(agent), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
        yield client, link, maker
    await agent.aclose()
    for decoder in maker.decoders:
        assert all(sequence.released for sequence in decoder.sequences)


def lost(text: bytes = b"", shown: int = 0, **body: Any) -> RequestStream:
    """A request whose link is lost in mid-answer."""
    stream = session(text, shown, **body)
    stream.link_lost(Unavailable("the link was lost"))
    return stream


def events(response: httpx.Response) -> list[Any]:
    """Of a stream; the last is None where it is complete."""
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    return [None if line == "[DONE]" else json.loads(line) for line in lines]


def text_of(payloads: list[Any]) -> str:
    return "".join(choice["text"] for payload in payloads if payload for choice in payload["choices"])


def assert_labelled(response: httpx.Response, from_token: int, *, header: bool = True) -> None:
    """An answer in which the draft model had a part says so, and where its part begins."""
    label = LABEL | {"from_token": from_token}
    if response.headers["content-type"].startswith("text/event-stream"):
        payloads = events(response)
        assert payloads.pop() is None
        ends = [payload for payload in payloads if payload["choices"] and payload["choices"][0]["finish_reason"]]
    else:
        ends = [response.json()]
    assert [payload["pipesd"] for payload in ends] == [label]
    if header:
        assert response.headers["x-pipesd-mode"] == "edge"


async def test_a_stream_that_waits_for_the_draft_model_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queued_stream, "PATIENCE_S", 0.0)
    headers_go_out = asyncio.Event()
    reached = queued_stream.Beginning.reached

    async def noted(beginning: queued_stream.Beginning[Any], request: Request, queued: asyncio.Event) -> None:
        await reached(beginning, request, queued)
        headers_go_out.set()

    monkeypatch.setattr(queued_stream.Beginning, "reached", noted)
    async with client_of(local_only=True) as (client, _, maker):
        (decoder,) = maker.decoders
        decoder.full.clear()
        asked = asyncio.create_task(client.post("/v1/completions", json={"prompt": "x", "stream": True, "seed": 3}))
        await asyncio.wait_for(headers_go_out.wait(), 60)
        assert decoder.waiting == 1
        decoder.full.set()
        response = await asked
        assert (response.headers["x-pipesd-mode"], response.headers["x-pipesd-seed"]) == ("edge", "3")
        assert response.text.startswith(": queued\n\ndata: {")


@pytest.mark.parametrize("stream", [True, False])
async def test_from_the_beginning_when_there_is_no_cloud(stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    async with client_of() as (client, _, _maker):
        body = {"prompt": "x", "stream": stream, "model": "the target", "seed": 3}
        response = await client.post("/v1/completions", json=body, headers={"x-request-id": "mine"})
        assert response.status_code == 200
        assert text_of(events(response) if stream else [response.json()]) == TEXT.decode()
        assert_labelled(response, 0)
        assert response.headers["x-pipesd-seed"] == "3"
        record = (await client.get("/v1/pipesd/requests/mine")).json()
        assert record["pipesd"] == LABEL | {"reason": "cannot reach the gateway"}
        (warning,) = [entry for entry in caplog.records if entry.levelno == logging.WARNING]
        assert "request mine is answered by the draft model alone: cannot reach" in warning.getMessage()


@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_by_default_and_by_header(stream: bool) -> None:
    async with client_of(policy="error") as (client, _, maker):
        response = await client.post("/v1/completions", json={"prompt": "x", "stream": stream})
        assert error_of(response, 503)["message"] == "cannot reach the gateway"
        assert response.headers["retry-after"] == "1"
        wanted = {"x-pipesd-fallback": "edge"}
        response = await client.post("/v1/completions", json={"prompt": "x", "stream": stream}, headers=wanted)
        assert_labelled(response, 0)
    async with client_of() as (client, _, maker):
        unwanted = {"x-pipesd-fallback": "error"}
        response = await client.post("/v1/completions", json={"prompt": "x", "stream": stream}, headers=unwanted)
        error_of(response, 503)
        assert maker.decoders == []


async def test_headers_that_cannot_be_followed() -> None:
    async with client_of() as (client, _, _maker):
        response = await client.post("/v1/completions", json={}, headers={"x-pipesd-fallback": "cloud"})
        assert "x-pipesd-fallback must be error or edge, but is 'cloud'" in error_of(response, 400)["message"]
    async with client_of(policy="error", has_local_model=False) as (client, _, _maker):
        response = await client.post("/v1/completions", json={}, headers={"x-pipesd-fallback": "edge"})
        assert "has no draft model" in error_of(response, 400)["message"]
        response = await client.post("/v1/completions", json={}, headers={"x-pipesd-fallback": "error"})
        error_of(response, 503)


@pytest.mark.parametrize("error", [Unauthorized("a refused key"), Overloaded("64 requests are open")])
async def test_other_errors_stay_errors(error: Exception) -> None:
    async with client_of() as (client, link, maker):
        link.failure = error
        response = await client.post("/v1/completions", json={"prompt": "x"})
        assert response.status_code in (401, 429)
        assert maker.decoders == []


async def test_what_the_draft_model_refuses_is_named_with_the_reason() -> None:
    async with client_of() as (client, _, _maker):
        response = await client.post("/v1/completions", json={"prompt": "x", "min_tokens": 3})
        message = error_of(response, 503)["message"]
        assert message.startswith("cannot reach the gateway; the draft model cannot answer instead: min_tokens (least")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("shown", [0, 2])
async def test_goes_on_in_mid_answer(stream: bool, shown: int, caplog: pytest.LogCaptureFixture) -> None:
    begun = lost(TEXT[:3], shown if stream else 0, stream=stream)
    async with client_of(begun) as (client, _, _maker):
        body = {"prompt": "x", "stream": stream}
        response = await client.post("/v1/completions", json=body, headers={"x-request-id": "mine"})
        assert text_of(events(response) if stream else [response.json()]) == "abcdef"
        assert_labelled(response, 3, header=not stream)
        assert response.headers["x-pipesd-seed"] == "9"
        record = (await client.get("/v1/pipesd/requests/mine")).json()
        assert record["pipesd"] == LABEL | {"from_token": 3, "reason": "the link was lost"}
        assert len(record["tokens"]) == 3
        assert record["output_tokens"] == 8
        assert "request mine: the draft model goes on alone after 3 tokens: the link was lost" in caplog.text


async def test_a_gateway_that_stops_in_mid_answer() -> None:
    stream = session(TEXT[:3])
    body = json.dumps(Unavailable("the server is shutting down").body()).encode()
    stream.receive(Failed(3, "unavailable", 503, body))
    async with client_of(stream) as (client, _, _maker):
        response = await client.post("/v1/completions", json={"prompt": "x", "stream": True})
        assert text_of(events(response)) == "abcdef"
        assert_labelled(response, 3, header=False)


async def test_a_broken_target_is_no_lost_one() -> None:
    stream = session(TEXT[:3])
    stream.receive(Failed(3, "engine_failed", 500, json.dumps(EngineFailed("boom").body()).encode()))
    async with client_of(stream) as (client, _, maker):
        assert error_of(await client.post("/v1/completions", json={"prompt": "x"}), 500)["message"] == "boom"
        assert maker.decoders == []


async def test_an_error_event_where_it_cannot_go_on(caplog: pytest.LogCaptureFixture) -> None:
    async with client_of(lost(b"ab", 2, fingerprint=None)) as (client, _, _maker):
        response = await client.post("/v1/completions", json={"prompt": "x", "stream": True})
        first, last = events(response)
        assert text_of([first]) == "ab"
        message = "the link was lost; the draft model cannot go on with the answer: it was opened cloud-only"
        assert last["error"]["message"].startswith(message)
        assert "the draft model cannot go on: it was opened cloud-only" in caplog.text
    async with client_of(lost(b"ab", 2), policy="error") as (client, _, maker):
        response = await client.post("/v1/completions", json={"prompt": "x", "stream": True})
        assert events(response)[-1]["error"]["message"] == "the link was lost"
        assert maker.decoders == []


async def test_a_parameter_that_is_refused_is_told_to_the_client_and_not_to_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with client_of(lost(b"ab", 2, suffix="a secret")) as (client, _, _maker):
        response = await client.post("/v1/completions", json={"prompt": "x", "stream": True})
        assert "suffix (what follows the answer) is not served here" in events(response)[-1]["error"]["message"]
        assert "the draft model cannot go on: InvalidRequest suffix" in caplog.text
        assert "a secret" not in caplog.text


async def test_an_answer_of_the_target_has_no_label() -> None:
    stream = session(b"ab")
    whole = {"choices": [{"index": 0, "text": "ab", "finish_reason": "stop"}]}
    stream.receive(Event(3, 2, 4, json.dumps(whole).encode()))
    stream.receive(End(3, 3))
    async with client_of(stream) as (client, _, _maker):
        response = await client.post("/v1/completions", json={"prompt": "x"}, headers={"x-request-id": "mine"})
        assert response.json() == whole
        assert "x-pipesd-mode" not in response.headers
        assert "pipesd" not in (await client.get("/v1/pipesd/requests/mine")).json()


@pytest.mark.parametrize("stream", [True, False])
async def test_requests_that_cannot_be_drafted_for(stream: bool) -> None:
    """Nobody listens at the gateway's address."""
    body = {"prompt": "x", "n": 2, "stream": stream}
    async with client_of() as (client, _, _maker):
        response = await client.post("/v1/completions", json=body)
        assert response.headers["x-pipesd-mode"] == "edge"
        payloads = [payload for payload in events(response) if payload] if stream else [response.json()]
        ends = [payload for payload in payloads if payload["choices"][0]["finish_reason"]]
        assert [payload["pipesd"] for payload in ends] == [LABEL] * len(ends)
        assert sum(len(payload["choices"]) for payload in ends) == 2
    async with client_of(policy="error") as (client, _, _maker):
        error_of(await client.post("/v1/completions", json=body), 503)


async def test_mode_edge_asks_no_gateway() -> None:
    async with client_of(local_only=True, policy="error") as (client, link, maker):
        link.connected = False
        assert (await client.get("/v1/models")).json()["data"][0]["id"] == "draft"
        assert (await client.get("/ready")).status_code == 200
        health = (await client.get("/health")).json()
        assert (health["mode"], health["gateway"]) == ("edge", None)
        for body in ({"prompt": "x"}, {"prompt": "x", "n": 2, "model": "draft"}):
            response = await client.post("/v1/completions", json=body)
            assert_labelled(response, 0)
        error_of(await client.post("/v1/completions", json={"prompt": "x", "model": "target"}), 404)
        assert "unknown" in error_of(await client.post("/v1/completions", json={"prompt": "x", "y": 1}), 400)["message"]
        assert len(maker.decoders) == 1


async def test_an_agent_that_stops_is_no_lost_cloud() -> None:
    maker = Maker()
    link = LinkToStreams()
    there = gateways("http://h")
    model_list, passthrough = ModelList(there, None, None), PassthroughClient(there, None, None)
    agent = Agent(cast(Link, link), model_list, passthrough, None, local=LocalModel(maker), fallback="edge")
    await agent.aclose()
    with pytest.raises(Unavailable, match="cannot reach"):
        await agent.answer(Endpoint.COMPLETIONS, b'{"prompt": "x"}', "id", agent.fallback_for(None))
    local = agent.fallback_for(None)
    with pytest.raises(Unavailable, match="shutting down"):
        await agent.pass_through(Endpoint.COMPLETIONS, b'{"prompt": "x"}', "id", local, reason="n = 2")
    assert maker.decoders == []


def test_policies_need_an_edge() -> None:
    assert fallback_policy(None, "edge", has_local_model=True) == "edge"
    assert fallback_policy("error", "edge", has_local_model=False) == "error"
    with pytest.raises(InvalidRequest):
        fallback_policy("edge", "error", has_local_model=False)
    for settings in ({"fallback": "edge"}, {"local_only": True}):
        with pytest.raises(ValueError, match="no local model"):
            Agent(
                cast(Link, LinkToStreams()),
                ModelList(gateways("http://h"), None, None),
                cast(PassthroughClient, None),
                None,
                **settings,
            )


def test_losses() -> None:
    assert is_unavailable(RemoteError(Failed(3, "unavailable", 503, b"{}")))
    assert not is_unavailable(RemoteError(Failed(3, "x", 429, b"{}")))
