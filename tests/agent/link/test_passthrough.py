"""Requests that cannot be drafted for, through a real agent to a gateway that writes what the test says."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import pytest
from fake_gateway import gateways
from test_agent import FakeLink, completes

from pipesd_agent.agent import Agent
from pipesd_agent.answer import Answer
from pipesd_agent.api.app import AnswerStream, create_app
from pipesd_agent.link import passthrough
from pipesd_agent.link.link import Link
from pipesd_agent.link.model_list import ModelList
from pipesd_agent.link.passthrough import PassthroughClient, of_endpoint
from pipesd_core.errors import Unavailable
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.service import sockets
from pipesd_core.service.program import listen
from pipesd_core.service.queued_stream import Beginning
from pipesd_core.service.request_metrics import RequestMetrics
from pipesd_core.service.server import Server

UNDRAFTABLE: dict[str, Any] = {"prompt": "x", "n": 2}
STREAM = UNDRAFTABLE | {"stream": True}
FIRST, SECOND = b'data: {"choices": [{"text": "a"}]}\n\n', b'data: {"choices":[{"text":"data: [DONE]"}]}\n\n'
DONE = b"data: [DONE]\n\n"


Script = Callable[[asyncio.StreamWriter], Awaitable[None]]


class FakeGateway:
    """An HTTP server that answers as `script` writes, and keeps what was asked.

    holds: it keeps the connection after that, silently. left: the agent has hung up.
    """

    def __init__(self) -> None:
        self.script: Script = whole(b"{}")
        self.holds = False
        self.heads: list[str] = []
        self.bodies: list[Any] = []
        self.asked = asyncio.Event()
        self.left = asyncio.Event()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            self.heads.append(head)
            length = int(head.partition("content-length: ")[2].partition("\r\n")[0] or 0)
            body = await reader.readexactly(length)
            self.bodies.append(json.loads(body) if "content-type: application/json" in head else body)
            self.asked.set()
            await self.script(writer)
            await writer.drain()
            if not self.holds:
                writer.write_eof()
            await reader.read()
        except OSError:
            pass
        finally:
            self.left.set()
            writer.close()


def head(status: str, *headers: str, kind: str = "application/json") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", f"content-type: {kind}", *headers, "", ""]).encode()


def whole(body: bytes, status: str = "200 OK", *headers: str) -> Script:
    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(head(status, f"content-length: {len(body)}", *headers) + body)

    return script


def streamed(*pieces: bytes, end: bool = True) -> Script:
    """Chunked events, each piece a chunk. end: with the chunk that ends the answer, else the connection breaks off."""

    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(head("200 OK", "transfer-encoding: chunked", kind="text/event-stream; charset=utf-8"))
        for piece in pieces:
            writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)
        if end:
            writer.write(b"0\r\n\r\n")

    return script


async def nothing(_: asyncio.StreamWriter) -> None:
    pass


begins = streamed(FIRST, end=False)


@asynccontextmanager
async def gateway() -> AsyncIterator[FakeGateway]:
    fake = FakeGateway()
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    fake.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield fake
    finally:
        server.close()


@asynccontextmanager
async def agent_before(url: str, key: str | None = None) -> AsyncIterator[tuple[httpx.AsyncClient, Agent, FakeLink]]:
    """A real agent but for its link, which drafts for nothing; and a client of it."""
    link = FakeLink(completes)
    agent = Agent(
        cast(Link, link),
        ModelList(gateways("http://127.0.0.1:1"), None, None),
        PassthroughClient(gateways(url), key, None),
        None,
    )
    listener = listen("127.0.0.1", 0)
    server = Server(create_app(agent), agent.aclose, log_level="warning")
    serving = asyncio.create_task(server._serve([listener]))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    try:
        async with httpx.AsyncClient(base_url=address, timeout=20) as client:
            yield client, agent, link
    finally:
        server.should_exit = True
        await asyncio.wait_for(serving, 20)


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def broke(text: str) -> str:
    """The message of the error event that a stream ends with."""
    events = [line for line in text.split("\n\n") if line and not line.startswith(":")]
    assert "data: [DONE]" not in events
    error = json.loads(events[-1].removeprefix("data: "))["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return str(error["message"])


async def test_a_whole_answer_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with gateway() as fake, agent_before(fake.url, "the-key") as (client, _, link):
        fake.script = whole(b'{ "odd":\t"space" }\n')
        asked = UNDRAFTABLE | {"vllm_xargs": {"mine": 1}, "seed": 2**70}
        mine = {"x-request-id": "mine", "authorization": "Bearer of-the-client"}
        answer = await client.post("/completions", json=asked, headers=mine)
        assert (answer.status_code, answer.content) == (200, b'{ "odd":\t"space" }\n')
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-pipesd-mode"] == "cloud"
        assert answer.headers["x-request-id"] == "mine"
        assert fake.bodies == [asked | {"vllm_xargs": {"mine": 1, "pipesd_noise": 1}}]
        assert fake.heads[0].startswith("post /v1/completions http/1.1\r\n")
        assert "\r\nauthorization: bearer the-key\r\n" in fake.heads[0]
        assert "\r\nx-request-id: mine\r\n" in fake.heads[0]
        assert link.asked == []
        assert "request mine is served cloud-only: n = 2 cannot be drafted for" in caplog.messages

        chat = await client.post("/chat/completions", json={"messages": [], "n": 3})
        assert chat.status_code == 200
        assert fake.heads[1].startswith("post /v1/chat/completions http/1.1\r\n")


async def test_what_can_be_drafted_takes_the_link() -> None:
    async with gateway() as fake, agent_before(fake.url) as (client, _, link):
        for body in ({"prompt": ["x"], "n": 1}, {"n": "x"}, {"stream": True}):
            await client.post("/completions", json=body)
        assert len(link.asked) == 3
        assert fake.heads == []


@pytest.mark.parametrize("body", [UNDRAFTABLE, STREAM])
@pytest.mark.parametrize("status", ["400 Bad Request", "403 Forbidden", "429 Too Many Requests", "502 Bad Gateway"])
async def test_errors_as_they_are(body: dict[str, Any], status: str) -> None:
    said = b'{"error": {"message": "n must be 1"}}'
    async with gateway() as fake, agent_before(fake.url) as (client, _, _link):
        fake.script = whole(said, status, "retry-after: 7", "x-inner: secret")
        answer = await client.post("/completions", json=body)
        assert (answer.status_code, answer.content) == (int(status[:3]), said)
        assert answer.headers["retry-after"] == "7"
        assert "x-inner" not in answer.headers


@pytest.mark.parametrize("body", [UNDRAFTABLE, STREAM])
async def test_a_refused_key_is_the_agents(body: dict[str, Any]) -> None:
    async with gateway() as fake, agent_before(fake.url, "wrong") as (client, _, _link):
        fake.script = whole(b'{"error": "Unauthorized"}', "401 Unauthorized")
        error = error_of(await client.post("/completions", json=body), 401)
        assert error["message"] == f"the gateway {fake.url} refuses this agent's key: set gateway_api_key_file"


async def test_a_gateway_that_does_not_answer_to_its_address() -> None:
    async with gateway() as fake, agent_before(fake.url) as (client, _, _link):
        fake.script = whole(b'{"error": {"message": "allow it with --allowed-host"}}', "421 Misdirected Request")
        error = error_of(await client.post("/completions", json=UNDRAFTABLE), 503)
        assert error["message"] == f"the gateway {fake.url} answered 421: allow it with --allowed-host"


async def test_what_is_no_api() -> None:
    async with gateway() as fake, agent_before(fake.url) as (client, _, _link):
        fake.script = whole(b"", "307 Temporary Redirect", "location: /elsewhere")
        error = error_of(await client.post("/completions", json=UNDRAFTABLE), 503)
        assert "sends on to '/elsewhere': set gateway" in error["message"]
        fake.script = whole(b"", "204 No Content")
        assert "it answered 204" in error_of(await client.post("/completions", json=UNDRAFTABLE), 503)["message"]


async def test_a_stream_as_it_is() -> None:
    pieces = (FIRST[:9], FIRST[9:-1], FIRST[-1:] + SECOND + b": ping\n\n" + DONE[:5], DONE[5:])
    async with gateway() as fake, agent_before(fake.url) as (client, _, _link):
        fake.script = streamed(*pieces)
        async with client.stream("POST", "/completions", json=STREAM) as answer:
            parts = [part async for part in answer.aiter_raw()]
        assert b"".join(parts) == b"".join(pieces)
        assert len(parts) > 1
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["x-pipesd-mode"] == "cloud"
        async with asyncio.timeout(60):
            await fake.left.wait()


USAGE = b'{"prompt_tokens":3,"completion_tokens":8}'
WHOLE = b'{"choices":[{"index":0},{"index":1}],"usage":' + USAGE + b"}"
EVENTS = (FIRST, b'data: {"choices":[{"index":1}]}\n\n')


@pytest.mark.parametrize(
    ("body", "script", "tokens"),
    [
        (UNDRAFTABLE, whole(WHOLE), [3, 8]),
        (STREAM, streamed(*EVENTS, b'data: {"choices":[],"usage":' + USAGE + b"}\n\n" + DONE), [3, 8]),
        (STREAM, streamed(*EVENTS, DONE), [None, None]),
    ],
)
async def test_an_answer_with_several_choices_leaves_a_record(
    body: dict[str, Any], script: Script, tokens: list[int | None]
) -> None:
    async with gateway() as fake, agent_before(fake.url) as (client, _, _link):
        fake.script = script
        async with client.stream("POST", "/completions", json=body, headers={"x-request-id": "mine"}) as answer:
            async for part in answer.aiter_raw():
                if part.endswith(DONE):
                    break  # whoever has seen the end may ask
            record = (await client.get("/pipesd/requests/mine")).json()
        assert record.pop("seconds") >= 0
        assert record == {
            "id": "mine",
            "finished": True,
            "prompt_tokens": tokens[0],
            "output_tokens": tokens[1],
            "choices": 2,
            "pipesd": {"mode": "cloud", "reason": "n = 2 cannot be drafted for"},
        }


async def test_a_record_of_a_client_that_left_and_none_of_a_refusal() -> None:
    async with gateway() as fake, agent_before(fake.url) as (client, agent, _link):
        fake.script, fake.holds = begins, True
        async with client.stream("POST", "/completions", json=STREAM, headers={"x-request-id": "left"}) as answer:
            await anext(answer.aiter_raw())
            assert agent.records.get("left") is None, "it is not over"
        async with asyncio.timeout(10):
            while (record := agent.records.get("left")) is None:  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.01)
        assert record["choices"] == 1
        fake.script, fake.holds = whole(b"{}", "400 Bad Request"), False
        await client.post("/completions", json=UNDRAFTABLE, headers={"x-request-id": "refused"})
        assert agent.records.get("refused") is None


@pytest.mark.parametrize(
    ("pieces", "end", "says"),
    [
        ((FIRST,), False, "was lost"),
        ((FIRST, SECOND[:12]), False, "was lost"),
        ((FIRST, SECOND), True, "ended its answer too early"),
        ((), False, "was lost"),
    ],
)
async def test_a_stream_that_breaks_off_ends_with_an_error(pieces: tuple[bytes, ...], end: bool, says: str) -> None:
    async with gateway() as fake, agent_before(fake.url) as (client, _, _link):
        fake.script = streamed(*pieces, end=end)
        answer = await client.post("/completions", json=STREAM)
        assert answer.status_code == 200
        assert says in broke(answer.text)
        assert answer.text.startswith(FIRST.decode() if pieces else "data: ")


async def test_an_error_of_the_gateway_in_mid_stream_is_the_only_one() -> None:
    trouble = b'data: {"error":{"message":"the engine died"}}\n\n'
    async with gateway() as fake, agent_before(fake.url) as (client, _, _link):
        fake.script = streamed(FIRST, trouble, end=False)
        assert (await client.post("/completions", json=STREAM)).content == FIRST + trouble


@pytest.mark.parametrize("body", [UNDRAFTABLE, STREAM])
async def test_no_gateway(body: dict[str, Any]) -> None:
    async with gateway() as fake:
        pass
    async with agent_before(fake.url) as (client, _, _link):
        answer = await client.post("/completions", json=body)
        assert f"cannot reach the gateway {fake.url}" in error_of(answer, 503)["message"]
        assert answer.headers["retry-after"] == "1"


async def test_a_gateway_that_falls_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passthrough, "SILENCE_S", 0.2)
    async with gateway() as fake, agent_before(fake.url) as (client, _, _link):
        fake.holds = True
        fake.script = nothing
        answer = await client.post("/completions", json=STREAM)
        assert "nothing came" in error_of(answer, 503)["message"]
        assert answer.headers["retry-after"] == "1"
        fake.script = begins
        assert "nothing came" in broke((await client.post("/completions", json=STREAM)).text)


@pytest.mark.skipif(sys.platform != "linux", reason="its options")
async def test_a_dead_gateway_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/core/service/test_sockets.py shows that the options do that."""
    asked: list[Any] = []
    setsockopt = socket.socket.setsockopt

    def noted(self: socket.socket, *option: Any) -> None:
        asked.append(option)
        setsockopt(self, *option)

    monkeypatch.setattr(socket.socket, "setsockopt", noted)
    async with gateway() as fake, agent_before(fake.url) as (client, _, _link):
        asked.clear()
        assert (await client.post("/completions", json=UNDRAFTABLE)).status_code == 200
    assert (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, sockets.CLIENT_TIMEOUT_S * 1000) in asked


async def test_a_whole_answer_that_breaks_off_is_none() -> None:
    async with gateway() as fake, agent_before(fake.url) as (client, _, _link):
        fake.script = whole(b'{"half', "200 OK", "content-length: 99")
        answer = await client.post("/completions", json=UNDRAFTABLE)
        assert "was lost" in error_of(answer, 503)["message"]


async def test_answers_have_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passthrough, "MAX_ANSWER_BYTES", 10)
    monkeypatch.setattr(passthrough, "MAX_EVENT_BYTES", 10)
    async with gateway() as fake, agent_before(fake.url) as (client, _, _link):
        fake.script = whole(b"x" * 11)
        assert "larger than 10" in error_of(await client.post("/completions", json=UNDRAFTABLE), 503)["message"]
        fake.script = streamed(FIRST[:-1])
        assert "larger than 10" in broke((await client.post("/completions", json=STREAM)).text)


async def test_so_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passthrough, "MAX_OPEN_REQUESTS", 1)
    monkeypatch.setattr(passthrough, "CONNECT_TIMEOUT_S", 0.2)
    async with gateway() as fake, agent_before(fake.url) as (client, _, _link):
        fake.script, fake.holds = begins, True
        async with client.stream("POST", "/completions", json=STREAM):
            answer = await client.post("/completions", json=UNDRAFTABLE)
            assert "its limit" in error_of(answer, 429)["message"]
            assert answer.headers["retry-after"] == "1"
        fake.script = whole(b"{}")
        assert (await client.post("/completions", json=UNDRAFTABLE)).status_code == 200


@pytest.mark.parametrize("body", [UNDRAFTABLE, STREAM])
async def test_a_client_that_leaves_before_the_answer_ends_the_request(body: dict[str, Any]) -> None:
    async with gateway() as fake, agent_before(fake.url) as (client, _, _link), asyncio.timeout(60):
        fake.script, fake.holds = nothing, True
        asking = asyncio.create_task(client.post("/completions", json=body))
        await fake.asked.wait()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await fake.left.wait()


async def test_a_client_that_leaves_in_mid_stream_ends_the_request() -> None:
    async with gateway() as fake, agent_before(fake.url) as (client, _, _link), asyncio.timeout(60):
        fake.script, fake.holds = begins, True
        async with client.stream("POST", "/completions", json=STREAM) as answer:
            assert await anext(answer.aiter_raw()) == FIRST
            assert not fake.left.is_set()
        await fake.left.wait()


async def test_a_stream_that_never_began_is_let_go_of() -> None:
    async with gateway() as fake, asyncio.timeout(60):
        fake.script, fake.holds = begins, True
        asking = PassthroughClient(gateways(fake.url), None, None)
        beginning: Beginning[Answer] = Beginning(asking.request(of_endpoint(Endpoint.COMPLETIONS, b"{}"), "id"))
        await beginning.result()

        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(_: Any) -> None:
            await asyncio.Event().wait()

        await AnswerStream(Endpoint.COMPLETIONS, beginning, RequestMetrics().arrived(0.0), {})(
            {"type": "http", "method": "POST"}, receive, send
        )
        await fake.left.wait()
        await asking.aclose()


async def test_forwarded_requests_are_timed() -> None:
    async with gateway() as fake, agent_before(fake.url) as (client, _, _link):
        scripts = (
            streamed(FIRST, SECOND, DONE),
            streamed(FIRST, end=False),
            whole(b"{}"),
            whole(b'{"error": {}}', "429 Too Many Requests"),
        )
        for fake.script in scripts:
            await client.post("/completions", json=STREAM)
        scrape = (await client.get(client.base_url.copy_with(path="/metrics"))).text
    for sample, value in {
        "time_to_first_token_seconds_count": 2,
        "inter_token_latency_seconds_count": 1,
        "request_time_per_output_token_seconds_count": 0,
        "e2e_request_latency_seconds_count": 2,
        "request_queue_time_seconds_count": 2,
        "requests_received_total": 4,
        "requests_running": 0,
    }.items():
        assert f'pipesd_agent_{sample}{{route="passthrough"}} {value:.1f}\n' in scrape, sample
    for outcome, count in {"completed": 2, "failed": 1, "aborted": 0, "refused": 1}.items():
        assert f'finished_total{{outcome="{outcome}",route="passthrough"}} {count:.1f}\n' in scrape, outcome


async def test_a_shutdown_is_told_in_mid_stream() -> None:
    async with gateway() as fake, agent_before(fake.url) as (client, agent, _):
        fake.script, fake.holds = begins, True
        async with client.stream("POST", "/completions", json=STREAM) as answer:
            parts = answer.aiter_text()
            assert await anext(parts) == FIRST.decode()
            await agent.aclose()
            assert "shutting down" in broke("".join([part async for part in parts]))
        assert "shutting down" in error_of(await client.post("/completions", json=UNDRAFTABLE), 503)["message"]


async def test_a_request_goes_to_the_next_gateway_where_no_answer_begins(unused_tcp_port: int) -> None:
    async with gateway() as draining, gateway() as broken, gateway() as good:
        draining.script = whole(b'{"error":{"message":"shutting down"}}', "503 Service Unavailable", "retry-after: 5")
        broken.script = nothing
        good.script = whole(b'{"choices":[]}')
        urls = (f"http://127.0.0.1:{unused_tcp_port}", draining.url, broken.url, good.url)
        asking = PassthroughClient(gateways(*urls), None, None)
        answer = await asking.request(of_endpoint(Endpoint.COMPLETIONS, b"{}"), "id")
        assert (answer.status, answer.body) == (200, b'{"choices":[]}')
        await asking.aclose()
        assert [len(fake.bodies) for fake in (draining, broken, good)] == [1, 1, 1]
        asking = PassthroughClient(gateways(*urls[:2]), None, None)
        answer = await asking.request(of_endpoint(Endpoint.COMPLETIONS, b"{}"), "id")
        assert answer.status == 503
        assert answer.headers["retry-after"] == "5"
        await asking.aclose()


async def test_an_address_where_no_answer_begins_is_asked_again() -> None:
    """A load balancer's: one server drains, one dies, for a moment there is none, and then there is one."""
    page = whole(b"<html>502 Bad Gateway</html>", "502 Bad Gateway")
    scripts = [whole(b'{"error":{"message":"shutting down"}}', "503 Service Unavailable"), nothing, page]

    async def in_turn(writer: asyncio.StreamWriter) -> None:
        await (scripts.pop(0) if scripts else whole(b'{"choices":[]}'))(writer)

    async with gateway() as balancer:
        balancer.script = in_turn
        asking = PassthroughClient(gateways(balancer.url), None, None)
        answer = await asking.request(of_endpoint(Endpoint.COMPLETIONS, b"{}"), "id")
        assert (answer.status, answer.body) == (200, b'{"choices":[]}')
        await asking.aclose()
    assert not scripts


@pytest.mark.parametrize("status", ["502 Bad Gateway", "503 Service Unavailable", "504 Gateway Time-out"])
async def test_a_proxy_s_error_page_is_no_answer(status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passthrough, "AGAIN_S", 0.0)
    async with gateway() as fake, agent_before(fake.url) as (client, _, _):
        fake.script = whole(b"<html>no server</html>", status)
        error = error_of(await client.post("/completions", json=UNDRAFTABLE), 503)
        assert f"answered {status[:3]}" in error["message"]
        assert error["code"] == "unavailable"


async def test_other_answers_are_the_client_s_and_asked_for_once() -> None:
    async with gateway() as first, gateway() as second:
        first.script = whole(b'{"error":{"message":"full"}}', "429 Too Many Requests")
        asking = PassthroughClient(gateways(first.url, second.url), None, None)
        assert (await asking.request(of_endpoint(Endpoint.COMPLETIONS, b"{}"), "id")).status == 429
        await asking.aclose()
        assert not second.bodies


async def test_a_stream_that_has_begun_goes_nowhere_else() -> None:
    async with gateway() as first, gateway() as second:
        first.script = begins
        asking = PassthroughClient(gateways(first.url, second.url), None, None)
        answer = await asking.request(of_endpoint(Endpoint.COMPLETIONS, b"{}"), "id")
        assert await answer.next() == FIRST
        with pytest.raises(Unavailable):
            await answer.next()
        await answer.aclose()
        await asking.aclose()
        assert not second.bodies
