"""The WebSocket shell: a real uvicorn and a real client around an engine that follows a script."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
import pytest
import uvicorn
from fastapi import FastAPI, WebSocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.frames import Frame, Opcode

from pipesd_core.engine.fake import FakeEngine, FakeGeneration, Request
from pipesd_core.engine.interface import Broken, Deliver, Finished, ModelInfo, Opening, Payload, StepDone, Working
from pipesd_core.errors import EngineFailed, Overloaded, Unauthorized
from pipesd_core.protocol.messages import (
    FOREVER,
    MAX_FRAME_BYTES,
    SUBPROTOCOL,
    VERSION,
    Ack,
    Close,
    Draft,
    Draining,
    EdgeMessage,
    End,
    Endpoint,
    Event,
    Failed,
    GatewayMessage,
    Open,
    Opened,
    Progress,
    Reason,
    Rejected,
    Resume,
    Run,
    Verdict,
    decode_gateway,
    encode,
)
from pipesd_core.protocol.websocket import CLOSE_INTERNAL_ERROR, CLOSE_SUPERSEDED, GOODBYES, INSTANCE_HEADER
from pipesd_core.sampling.params import SamplingParams
from pipesd_core.service.lifecycle import Lifecycle
from pipesd_gateway import agent_socket, agents, quota
from pipesd_gateway.connection import GatewayConnection
from pipesd_gateway.limits import SessionLimits
from pipesd_gateway.quota import Quota
from pipesd_gateway.session import GatewaySession

INFO = ModelInfo("toy", n_vocab=100, fingerprint=b"f" * 16, max_context=64, max_drafts=5)
PROMPT = (1, 2, 3)
BASE = len(PROMPT)


class ScriptedEngine(FakeEngine):
    """Writes 10, 11, 12, ... after a prompt of its own; its payloads are the tokens as bytes.

    The body of a request says what `open` does with it: a number is max_tokens, a word a fault.
    """

    def __init__(self) -> None:
        super().__init__(lambda _, output: 10 + len(output), info=INFO, eos_ids=(99,), payloads=self._bytes)
        self.padding = b""
        self.opening: Opening | None = None
        self.waiting = 0
        self.cancelled = 0
        self.late = asyncio.Event()
        self.server: uvicorn.Server | None = None

    async def open(self, endpoint: Endpoint, body: bytes, deliver: Deliver) -> FakeGeneration:
        assert endpoint is Endpoint.COMPLETIONS
        match body:
            case b"full":
                raise Overloaded("the queue is full", retry_after_s=3)
            case b"bug":
                raise KeyError("a bug of the engine")
            case b"wait":
                await self._forever()
            case b"late refusal" | b"late":
                # Cancelled when it is too late to notice.
                with contextlib.suppress(asyncio.CancelledError):
                    await self._forever()
                await self.late.wait()
                if body == b"late refusal":
                    raise Overloaded("too late")
                body = b"5"
        asked = {"prompt": PROMPT, "max_tokens": int(body), "seed": 5}
        return await super().open(endpoint, json.dumps(asked).encode(), deliver)

    def understand(self, endpoint: Endpoint, request: Request) -> Opening:
        return self.opening or super().understand(endpoint, request)

    def _bytes(self, generation: FakeGeneration, done: StepDone) -> list[Payload]:
        return [Payload(bytes(done.tokens) + self.padding, len(generation.output))]

    async def _forever(self) -> None:
        self.waiting += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.waiting -= 1
            self.cancelled += 1


ACCEPTED = {"right", "other"}


def check_key(websocket: WebSocket) -> str:
    key = websocket.headers.get("authorization", "").removeprefix("Bearer ")
    if key not in ACCEPTED:
        raise Unauthorized("the API key is not one of this server's")
    return key


@contextlib.asynccontextmanager
async def serving(
    engine: ScriptedEngine,
    *,
    park_timeout_s: float = 30.0,
    grace_s: float = 0.5,
    max_size: int = MAX_FRAME_BYTES,
    max_per_key: int = 256,
    lifecycle: Lifecycle | None = None,
) -> AsyncIterator[str]:
    """A real server; the URL of its agents' socket. Afterwards no task of an agent is left."""
    app = FastAPI()  # as vLLM's; our own gateway's is a Starlette (test_server.py)
    limits = SessionLimits(park_timeout_s=park_timeout_s, grace_s=grace_s)
    agents.attach(app, engine, limits, check_key, Quota(max_per_key), lifecycle)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, log_config=None, log_level="warning", ws="websockets-sansio", ws_per_message_deflate=False,
        ws_max_size=max_size, lifespan="off", timeout_graceful_shutdown=5,
    )  # fmt: skip
    server = engine.server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve([listener]))
    try:
        await until(lambda: server.started)
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}/v1/pipesd/ws"
        await until(lambda: not tasks_of_agents(), "tasks are left behind")
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 60)
        listener.close()


@pytest.fixture
async def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
async def url(engine: ScriptedEngine) -> AsyncIterator[str]:
    async with serving(engine) as url:
        yield url


def tasks_of_agents() -> list[str]:
    coroutines = (task.get_coro() for task in asyncio.all_tasks())
    names = [getattr(c, "__qualname__", "") for c in coroutines]
    return [name for name in names if "AgentSocket" in name]


async def until(condition: Callable[[], bool], what: str = "it did not happen in time") -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(what)


def agent(url: str, *, key: str = "right", subprotocols: Sequence[str] = (SUBPROTOCOL,), **options: int) -> connect:
    return connect(
        url,
        subprotocols=list(subprotocols) or None,  # type: ignore[arg-type]
        additional_headers={"Authorization": f"Bearer {key}"},
        compression=None,
        close_timeout=1,
        **options,  # type: ignore[arg-type]
    )


async def send(socket: ClientConnection, *messages: EdgeMessage) -> None:
    for message in messages:
        await socket.send(encode(message))


async def next_message(socket: ClientConnection) -> GatewayMessage:
    frame = await asyncio.wait_for(socket.recv(), 60)
    assert isinstance(frame, bytes)
    return decode_gateway(frame)


async def next_messages(socket: ClientConnection, n: int) -> list[GatewayMessage]:
    return [await next_message(socket) for _ in range(n)]


async def arrived(socket: ClientConnection) -> None:
    """Everything said before has reached the sessions: the answer to a refused request proves it."""
    await send(socket, request(63, b"full"))
    assert isinstance(await next_message(socket), Failed)


async def messages_to_the_end(socket: ClientConnection) -> tuple[list[GatewayMessage], int]:
    """What is still said, and the code that the connection is closed with."""
    messages: list[GatewayMessage] = []
    try:
        while True:
            messages.append(await next_message(socket))
    except ConnectionClosed as closed:
        return messages, closed.rcvd.code if closed.rcvd else 1006


def request(channel: int, body: bytes) -> Open:
    return Open(channel, VERSION, Endpoint.COMPLETIONS, body, INFO.fingerprint)


# The handshake.


@pytest.mark.parametrize("offered", [(), ("pipesd.v2",), ("chat", "pipesd.v0")])
async def test_without_the_subprotocol_the_handshake_is_a_400_that_says_so(url: str, offered: tuple[str, ...]) -> None:
    with pytest.raises(InvalidStatus) as caught:
        await agent(url, subprotocols=offered)
    response = caught.value.response
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"
    error = json.loads(response.body or b"")["error"]
    assert error["type"] == "invalid_request_error"
    assert (
        f"speaks the WebSocket subprotocol {SUBPROTOCOL}; the client offered {', '.join(offered) or 'none'}"
        in (error["message"])
    )


async def test_an_agent_that_is_refused_again_and_again_is_logged_once(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def refused(times: int, **options: Any) -> None:
        for _ in range(times):
            with pytest.raises(InvalidStatus):
                await agent(url, **options)

    await refused(3, key="wrong")
    await refused(2, subprotocols=("pipesd.v2",))
    async with agent(url):
        pass
    await refused(2, key="wrong")
    told = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    wrong = "an agent at 127.0.0.1 is refused: the API key is not one of this server's"
    assert [told[0], told[2]] == [wrong] * 2
    assert "pipesd.v2" in told[1]
    assert len(told) == 3
    assert not any("401" in message or "without completing" in message for message in caplog.messages)


@pytest.mark.parametrize("offered", [(), (SUBPROTOCOL,)])
async def test_a_wrong_key_is_a_401_whatever_else_is_wrong(url: str, offered: tuple[str, ...]) -> None:
    with pytest.raises(InvalidStatus) as caught:
        await agent(url, key="wrong", subprotocols=offered)
    response = caught.value.response
    assert response.status_code == 401
    assert json.loads(response.body or b"") == Unauthorized("the API key is not one of this server's").body()


async def test_the_subprotocol_is_chosen_among_those_offered(url: str) -> None:
    async with agent(url, subprotocols=("pipesd.v2", SUBPROTOCOL)) as socket:
        assert socket.subprotocol == SUBPROTOCOL


async def test_the_handshake_names_the_server(engine: ScriptedEngine) -> None:
    """So that an agent knows whether it has come out at another one of a load balancer's."""
    names = []
    for _ in range(2):
        async with serving(engine) as url, agent(url) as first, agent(url) as second:
            told = [socket_.response.headers[INSTANCE_HEADER] for socket_ in (first, second) if socket_.response]
            assert len(told) == 2
            assert told[0] == told[1]
            names.append(told[0])
    assert names[0] != names[1]


async def test_a_key_that_is_removed_opens_no_session_more_and_ends_none(
    engine: ScriptedEngine, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with agent(url) as socket:
        await send(socket, request(0, b"3"))
        await until(lambda: len(engine.generations) == 1)
        monkeypatch.setattr(sys.modules[__name__], "ACCEPTED", {"other"})
        await send(socket, request(1, b"3"))
        messages = await next_messages(socket, 9)
        (refusal,) = (message for message in messages if message.channel == 1)  # type: ignore[union-attr]
        assert isinstance(refusal, Failed)
        assert (refusal.code, refusal.status) == ("invalid_api_key", 401)
        assert End(0, 7) in messages
        assert len(engine.generations) == 1


# Sessions.


async def test_a_free_run_from_open_to_end(engine: ScriptedEngine, url: str) -> None:
    async with agent(url) as socket:
        await send(socket, request(4, b"3"))
        opened, *steps, end = await next_messages(socket, 8)
    assert isinstance(opened, Opened)
    assert (opened.channel, opened.prompt_ids, opened.max_tokens, opened.eos_ids) == (4, PROMPT, 3, (99,))
    for n, (verdict, event) in enumerate(zip(steps[::2], steps[1::2], strict=True)):
        assert isinstance(verdict, Verdict)
        assert (verdict.seq, verdict.start, verdict.tokens) == (2 * n + 1, BASE + n, (10 + n,))
        assert event == Event(4, 2 * n + 2, BASE + n + 1, bytes([10 + n]))
    assert end == End(4, 7)
    assert not engine.generations[0].aborted


async def test_drafts_are_verified(engine: ScriptedEngine, url: str) -> None:
    engine.running = False
    async with agent(url) as socket:
        await send(socket, request(0, b"9"))
        assert isinstance(await next_message(socket), Opened)
        await send(socket, Draft.wishing(0, 0, BASE, (10, 11, 12, 50), BASE + 3))
        await arrived(socket)
        (generation,) = engine.generations
        engine.running = True
        generation.go()  # the step of the free run
        verdicts = [m for m in await next_messages(socket, 4) if isinstance(m, Verdict)]
        assert [v.tokens for v in verdicts] == [(10,), (11, 12, 13)]
        assert [(v.verified, v.accepted, v.reason) for v in verdicts] == [
            (0, 0, Reason.RUN),
            (3, 2, Reason.VERIFICATION),
        ]
        assert [v.recv_us > 0 for v in verdicts] == [False, True]
        assert generation.orders == [(), (11, 12, 50)]


async def test_the_clock_runs_a_silent_agent_s_session_goes_on(engine: ScriptedEngine) -> None:
    async with serving(engine, park_timeout_s=0.05) as url, agent(url) as socket:
        engine.running = False
        await send(socket, request(0, b"3"))
        await next_message(socket)
        await send(socket, Run(0, 0))
        await arrived(socket)
        engine.running = True
        engine.generations[0].go()
        messages = [await next_message(socket)]
        while not isinstance(messages[-1], End):
            messages.append(await next_message(socket))
        assert [m.reason for m in messages if isinstance(m, Verdict)] == [Reason.RUN, Reason.TIMEOUT, Reason.TIMEOUT]


@pytest.mark.parametrize("asked", [True, False])
async def test_progress_is_told_to_an_edge_that_asked_for_it(engine: ScriptedEngine, url: str, *, asked: bool) -> None:
    engine.running = False
    async with agent(url) as socket:
        await send(socket, msgspec.structs.replace(request(0, b"3"), progress=asked))
        assert isinstance(await next_message(socket), Opened)
        (generation,) = engine.generations
        engine.step_output = Working()  # of a long prompt, again and again
        for _ in range(3):
            generation.go()
        engine.step_output, engine.running = None, True
        generation.go()
        told = [await next_message(socket) for _ in range(3)] if asked else []
        assert told == [Progress(0)] * len(told)
        assert isinstance(await next_message(socket), Verdict)


async def test_many_sessions_at_once_each_in_order(engine: ScriptedEngine, url: str) -> None:
    async with agent(url) as socket:
        for channel in range(20):
            await send(socket, request(channel, b"6"))
        messages = await next_messages(socket, 20 * 14)
    for channel in range(20):
        kinds = [type(m) for m in messages if m.channel == channel]  # type: ignore[union-attr]
        assert kinds == [Opened, *[Verdict, Event] * 6, End]
    assert len(engine.generations) == 20


async def test_a_refusal_of_the_engine_reaches_the_edge(url: str) -> None:
    async with agent(url) as socket:
        await send(socket, request(0, b"full"))
        fault = await next_message(socket)
        assert isinstance(fault, Failed)
        assert (fault.channel, fault.status, fault.retry_after_s) == (0, 429, 3)
        await send(socket, request(0, b"1"))
        assert isinstance(await next_message(socket), Opened), "the channel is free again"


@pytest.mark.parametrize("where", ["tick", "deliver"])
async def test_a_bug_in_a_callback_ends_the_link_and_no_session_hangs(
    where: str, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody awaits a timer, or what the engine calls: without care the session would wait for ever."""
    engine.running = False
    async with serving(engine, park_timeout_s=0.05) as url, agent(url) as socket:
        await send(socket, request(0, b"3"))
        assert isinstance(await next_message(socket), Opened)
        await send(socket, Run(0, 0))
        await arrived(socket)
        if where == "tick":
            monkeypatch.setattr(GatewayConnection, "tick", lambda *_: 1 / 0)
        else:
            monkeypatch.setattr(GatewaySession, "step_done", lambda *_: 1 / 0)
        engine.running = True
        engine.generations[0].go()
        _, code = await messages_to_the_end(socket)
        assert code == CLOSE_INTERNAL_ERROR
        await until(lambda: engine.generations[0].aborted)
    assert "agent connection failed in" in caplog.text


async def test_a_bug_in_a_timer_of_a_lost_agent_ends_its_sessions(
    engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.running = False
    async with serving(engine, park_timeout_s=600, grace_s=600) as url, agent(url) as socket:
        await send(socket, request(0, b"3"))
        assert isinstance(await next_message(socket), Opened)
        real, failing = GatewayConnection.disconnected, [False]

        def once_lost(self: GatewayConnection, now: float, *, for_good: bool) -> None:
            real(self, now, for_good=for_good)
            if not failing[0]:
                failing[0] = True
                due = [now]
                monkeypatch.setattr(GatewayConnection, "deadline", lambda _: due.pop() if due else None)
                monkeypatch.setattr(GatewayConnection, "tick", lambda *_: 1 / 0)

        monkeypatch.setattr(GatewayConnection, "disconnected", once_lost)
        socket.transport.abort()
        await until(lambda: engine.generations[0].aborted)


async def test_a_bug_of_the_engine_fails_its_request_and_no_other(url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with agent(url) as socket:
        with caplog.at_level(logging.ERROR, "pipesd_gateway.agent_socket"):
            await send(socket, request(0, b"bug"))
            fault = await next_message(socket)
        assert isinstance(fault, Failed)
        assert (fault.channel, fault.code, fault.status) == (0, "engine_failed", 500)
        assert b"a bug" not in fault.body
        assert "a bug of the engine" in caplog.text
        await send(socket, request(1, b"1"))
        assert isinstance(await next_message(socket), Opened)


async def test_a_generation_that_breaks_ends_its_session(engine: ScriptedEngine, url: str) -> None:
    engine.running = False
    async with agent(url) as socket:
        await send(socket, request(0, b"5"))
        await next_message(socket)
        engine.generations[0].deliver(Broken(EngineFailed("out of memory")))
        fault = await next_message(socket)
        assert isinstance(fault, Failed)
        assert fault.code == "engine_failed"
        engine.generations[0].deliver(Finished())  # nobody listens any more
        await send(socket, Run(0, 0), request(0, b"5"))
        assert isinstance(await next_message(socket), Opened)


async def test_close_aborts_and_frees_the_channel(engine: ScriptedEngine, url: str) -> None:
    engine.running = False
    async with agent(url) as socket:
        await send(socket, request(0, b"5"))
        await next_message(socket)
        await send(socket, Close(0), request(0, b"7"))
        assert isinstance(await next_message(socket), End)
        opened = await next_message(socket)
        assert isinstance(opened, Opened)
        assert opened.max_tokens == 7
        assert [g.aborted for g in engine.generations] == [True, False]


# Cancelling what waits.


async def test_close_while_waiting_gives_the_place_in_the_queue_back(engine: ScriptedEngine, url: str) -> None:
    async with agent(url) as socket:
        await send(socket, request(0, b"wait"))
        await until(lambda: engine.waiting == 1)
        await send(socket, Close(0))
        assert await next_message(socket) == End(0, 1)
        await until(lambda: engine.cancelled == 1)


@pytest.mark.parametrize("body", [b"late", b"late refusal"])
async def test_an_engine_that_notices_too_late_does_not_disturb_the_channel_s_next_request(
    engine: ScriptedEngine, url: str, body: bytes
) -> None:
    engine.running = False
    async with agent(url) as socket:
        await send(socket, request(0, body))
        await until(lambda: engine.waiting == 1)
        await send(socket, Close(0), request(0, b"wait"))
        assert await next_message(socket) == End(0, 1)
        await until(lambda: engine.cancelled == 1 and engine.waiting == 1)
        engine.late.set()
        await until(
            lambda: len(tasks_of_agents()) == 3, "reader, writer and the second opening"
        )  # `serve` is uvicorn's
        assert [g.aborted for g in engine.generations] == ([True] if body == b"late" else [])
        assert engine.waiting == 1
        await send(socket, Close(0))
        assert await next_message(socket) == End(0, 1)


async def test_a_disconnect_waits_for_openings_that_are_slow_to_cancel(engine: ScriptedEngine, url: str) -> None:
    async with agent(url) as socket:
        await send(socket, request(0, b"late"))
        await until(lambda: engine.waiting == 1)
    await until(lambda: engine.cancelled == 1)
    engine.late.set()
    await until(lambda: len(engine.generations) == 1)
    await until(lambda: engine.generations[0].aborted)


# The end of a connection.


@pytest.mark.parametrize(
    "frame", [b"rubbish", b"", "rubbish", "", encode(Close(77))], ids=["bytes", "empty", "text", "empty text", "state"]
)
async def test_a_fault_is_answered_and_closes_with_1002(engine: ScriptedEngine, url: str, frame: bytes | str) -> None:
    engine.running = False
    async with agent(url) as socket:
        await send(socket, request(0, b"5"), request(1, b"wait"))
        await next_message(socket)
        await until(lambda: engine.waiting == 1)
        await socket.send(frame)
        messages, code = await messages_to_the_end(socket)
    (rejected,) = messages
    assert isinstance(rejected, Rejected)
    assert rejected.code == ("out_of_state" if frame == encode(Close(77)) else "malformed_message")
    assert code == 1002
    assert engine.generations[0].aborted
    assert engine.cancelled == 1


async def test_nothing_that_follows_a_fault_is_read(engine: ScriptedEngine, url: str) -> None:
    async with agent(url) as socket:
        await socket.send(b"rubbish")
        with contextlib.suppress(ConnectionClosed):
            for _ in range(20):
                await send(socket, request(0, b"5"))
                await socket.send(b"rubbish")
        messages, code = await messages_to_the_end(socket)
    assert [type(m) for m in messages] == [Rejected]
    assert code == 1002
    assert engine.generations == []


async def test_what_was_said_before_a_fault_is_still_heard(engine: ScriptedEngine, url: str) -> None:
    engine.padding = bytes(50_000)
    async with agent(url) as socket:
        await send(socket, request(0, b"20"))
        await until(lambda: bool(engine.generations) and engine.generations[0].over)
        await socket.send(b"rubbish")
        messages, code = await messages_to_the_end(socket)
    assert [type(m) for m in messages] == [Opened, *[Verdict, Event] * 20, End, Rejected]
    assert code == 1002


async def test_a_disconnect_aborts_every_generation_and_leaves_no_task(engine: ScriptedEngine, url: str) -> None:
    engine.running = False
    async with agent(url) as socket:
        for channel in range(5):
            await send(socket, request(channel, b"5"))
        await send(socket, request(5, b"wait"), request(6, b"wait"))
        await next_messages(socket, 5)
        await until(lambda: engine.waiting == 2)
        assert len(tasks_of_agents()) == 4
        socket.transport.abort()
        await until(lambda: engine.cancelled == 2)
        await until(lambda: tasks_of_agents() == [])
        assert not any(g.aborted for g in engine.generations), "they may be resumed"
        await until(lambda: all(g.aborted for g in engine.generations))


async def test_a_session_is_resumed_where_it_was(engine: ScriptedEngine) -> None:
    engine.running = False
    async with serving(engine, grace_s=10) as url:
        async with agent(url) as first:
            await send(first, request(0, b"5"))
            opened = await next_message(first)
            assert isinstance(opened, Opened)
            engine.generations[0].go()
            await next_messages(first, 2)
            first.transport.abort()
        await until(lambda: tasks_of_agents() == [])
        engine.generations[0].go()  # the step that was under way
        async with agent(url, key="other") as thief:
            await send(thief, Resume(0, opened.session, 2))
            refused = await next_message(thief)
            assert isinstance(refused, Failed)
            assert refused.code == "session_unknown"
        async with agent(url) as second:
            await send(second, Resume(3, opened.session, 1))
            event, verdict, following = await next_messages(second, 3)
            assert event == Event(3, 2, BASE + 1, bytes((10,)))
            assert isinstance(verdict, Verdict)
            assert (verdict.seq, verdict.tokens) == (3, (11,))
            assert following == Event(3, 4, BASE + 2, bytes((11,)))
            await send(second, Draft.wishing(3, 1, BASE + 2, (12, 13), BASE + 3))
            await until(lambda: len(engine.generations[0].orders) > 2)
            engine.running = True
            engine.generations[0].go()
            while not isinstance(await next_message(second), End):
                pass
    assert not engine.generations[0].aborted


async def test_an_answer_that_ended_in_the_absence_is_delivered(engine: ScriptedEngine) -> None:
    async with serving(engine, grace_s=10) as url:
        engine.running = False
        async with agent(url) as first:
            await send(first, request(0, b"2"))
            opened = await next_message(first)
            assert isinstance(opened, Opened)
            await send(first, Run(0, FOREVER))
            await arrived(first)
            first.transport.abort()
        await until(lambda: tasks_of_agents() == [])
        engine.running = True
        engine.generations[0].go()
        await until(lambda: engine.generations[0].over)
        for _ in range(2):  # also when the end is lost once more
            async with agent(url) as second:
                await send(second, Resume(0, opened.session, 0))
                messages = await next_messages(second, 5)
                assert [type(m) for m in messages] == [Verdict, Event, Verdict, Event, End]
                second.transport.abort()
        async with agent(url) as third:
            await send(third, Resume(0, opened.session, 0))
            await next_messages(third, 5)
            await send(
                third, request(0, b"1"), Resume(1, opened.session, 0)
            )  # the channel's next request: it was heard
            failures = [m for m in await next_messages(third, 5) if isinstance(m, Failed)]
            assert [m.code for m in failures] == ["session_unknown"]


@pytest.mark.parametrize("code", GOODBYES)
async def test_an_agent_that_says_goodbye_has_its_generations_aborted_at_once(
    engine: ScriptedEngine, code: int
) -> None:
    engine.running = False
    async with serving(engine, grace_s=60) as url, agent(url) as socket:
        await send(socket, request(0, b"5"))
        await next_message(socket)
        await socket.close(code)
        await until(lambda: engine.generations[0].aborted)


async def test_the_newer_connection_wins_and_the_older_is_closed(engine: ScriptedEngine) -> None:
    engine.running = False
    async with serving(engine, grace_s=10) as url, agent(url) as old, agent(url) as new:
        await send(old, request(0, b"5"), request(1, b"5"))
        openings = await next_messages(old, 2)
        sessions = [m.session for m in openings if isinstance(m, Opened)]
        await send(new, Resume(0, sessions[0], 0))
        messages, code = await messages_to_the_end(old)
        assert (messages, code) == ([], CLOSE_SUPERSEDED)
        await send(new, Resume(1, sessions[1], 0))  # that one is lost, and resumed like any other
        engine.generations[1].go()
        engine.generations[0].go()
        verdicts = [m for m in await next_messages(new, 4) if isinstance(m, Verdict)]
        assert {m.channel for m in verdicts} == {0, 1}


# A server that is about to end.


def begin_drain(lifecycle: Lifecycle, seconds: float) -> None:
    lifecycle.draining = True
    lifecycle.drain(seconds)


async def test_every_agent_is_told_of_a_drain_and_finishes_what_runs(engine: ScriptedEngine) -> None:
    engine.running = False
    lifecycle = Lifecycle()
    async with serving(engine, lifecycle=lifecycle) as url, agent(url) as busy, agent(url) as idle:
        await send(busy, Open(0, VERSION, Endpoint.COMPLETIONS, b"1", None))
        assert isinstance(await next_message(busy), Opened)
        assert lifecycle.host is not None
        assert lifecycle.host.sessions() == 1
        begin_drain(lifecycle, 29.2)
        assert await next_message(busy) == Draining(30)
        assert await next_message(idle) == Draining(30)
        await send(busy, Open(1, VERSION, Endpoint.COMPLETIONS, b"1", None))
        refused = await next_message(busy)
        assert isinstance(refused, Failed)
        assert (refused.channel, refused.code, refused.retry_after_s) == (1, "unavailable", 30)
        with pytest.raises(InvalidStatus) as handshake:
            async with agent(url, key="other"):
                pass
        assert handshake.value.response.status_code == 503
        engine.generations[0].go()
        assert [type(await next_message(busy)) for _ in range(3)] == [Verdict, Event, End]
        assert lifecycle.host.sessions() == 0
        await lifecycle.aclose()
        for socket_ in (busy, idle):
            await asyncio.wait_for(socket_.wait_closed(), 60)
            assert socket_.close_code == 1012


async def test_a_session_whose_link_is_lost_in_a_drain_is_resumed(engine: ScriptedEngine) -> None:
    engine.running = False
    lifecycle = Lifecycle()
    async with serving(engine, grace_s=30, lifecycle=lifecycle) as url:
        async with agent(url) as before:
            await send(before, Open(0, VERSION, Endpoint.COMPLETIONS, b"1", None))
            opened = await next_message(before)
            assert isinstance(opened, Opened)
            begin_drain(lifecycle, 60.0)
            before.transport.abort()
        async with agent(url) as after:
            assert isinstance(message := await next_message(after), Draining)
            assert 55 < message.deadline_s <= 60
            await send(after, Resume(0, opened.session, 0))
            await until(lambda: len(engine.generations) == 1)
            await asyncio.sleep(0.1)
            engine.generations[0].go()
            assert [type(await next_message(after)) for _ in range(3)] == [Verdict, Event, End]


async def test_a_drain_does_not_wait_for_an_agent_that_stays_away(
    engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.running = False
    monkeypatch.setattr(agents, "RETURN_S", 0.3)
    lifecycle = Lifecycle()
    async with serving(engine, grace_s=3, lifecycle=lifecycle) as url:
        async with agent(url) as lost:
            await send(lost, Open(0, VERSION, Endpoint.COMPLETIONS, b"5", None))
            assert isinstance(await next_message(lost), Opened)
            lost.transport.abort()
        await asyncio.sleep(0.4)
        assert not lifecycle.idle, "without a drain it may come back"
        begin_drain(lifecycle, 60.0)
        assert not lifecycle.idle
        await until(lambda: lifecycle.idle)


@pytest.mark.parametrize("waits", [True, False])
async def test_what_runs_at_the_deadline_is_not_told_that_it_failed(engine: ScriptedEngine, waits: bool) -> None:
    lifecycle = Lifecycle()
    engine.running = False
    async with serving(engine, grace_s=30, lifecycle=lifecycle) as url, agent(url) as socket_:
        await send(socket_, Open(0, VERSION, Endpoint.COMPLETIONS, b"5", None))
        await send(socket_, Open(1, VERSION, Endpoint.COMPLETIONS, b"wait", None))
        assert isinstance(await next_message(socket_), Opened)
        await until(lambda: engine.waiting == 1)
        if waits:
            await lifecycle.aclose()
        else:
            lifecycle.hang_up()
            assert engine.generations[0].aborted, "at once: what the engine says of its end must find nobody"
        with pytest.raises(ConnectionClosed):
            await next_message(socket_)
        assert socket_.close_code == 1012
        assert engine.generations[0].aborted
        assert engine.cancelled == 1
        assert lifecycle.idle


async def test_one_agent_s_end_is_none_of_another_s(engine: ScriptedEngine, url: str) -> None:
    engine.running = False
    async with agent(url) as other:
        await send(other, request(0, b"5"))
        await next_message(other)
        async with agent(url) as socket:
            await send(socket, request(0, b"5"))
            await next_message(socket)
            await socket.send("rubbish")
            await messages_to_the_end(socket)
        assert [g.aborted for g in engine.generations] == [False, True]
        engine.generations[0].go()
        assert isinstance(await next_message(other), Verdict)


async def test_the_sessions_of_a_key_are_limited_over_all_its_connections(engine: ScriptedEngine) -> None:
    engine.running = False
    async with serving(engine, max_per_key=2) as url, agent(url) as first, agent(url, key="other") as other:
        async with agent(url) as second:
            await send(first, request(0, b"9"))
            await send(second, request(0, b"9"))
            assert isinstance(await next_message(first), Opened)
            assert isinstance(await next_message(second), Opened)
            await send(first, request(1, b"9"))
            refused = await next_message(first)
            assert isinstance(refused, Failed)
            assert (refused.channel, refused.status, refused.retry_after_s) == (1, 429, 1)
            assert b"the limit is 2" in refused.body
            await send(other, request(1, b"9"))
            assert isinstance(await next_message(other), Opened)
        await until(lambda: engine.generations[1].aborted)
        await send(first, request(1, b"9"))
        assert isinstance(await next_message(first), Opened)


async def test_a_frame_above_the_server_s_limit_closes_with_1009(engine: ScriptedEngine, url: str) -> None:
    engine.running = False
    async with agent(url) as socket:
        await send(socket, request(0, b"5"))
        await next_message(socket)
        with contextlib.suppress(ConnectionClosedError):
            await socket.send(bytes(MAX_FRAME_BYTES + 1))
        messages, code = await messages_to_the_end(socket)
    assert (messages, code) == ([], 1009)
    await until(lambda: engine.generations[0].aborted)


async def test_a_frame_above_the_protocol_s_limit_is_rejected_where_the_server_s_is_higher(
    engine: ScriptedEngine,
) -> None:
    async with serving(engine, max_size=2 * MAX_FRAME_BYTES) as url, agent(url) as socket:
        await socket.send(bytes(MAX_FRAME_BYTES + 1))
        messages, code = await messages_to_the_end(socket)
    assert isinstance(messages[0], Rejected)
    assert str(MAX_FRAME_BYTES) in messages[0].message
    assert code == 1002


@pytest.mark.parametrize(("limit", "value"), [("MAX_OUTBOX", 40), ("MAX_OUTBOX_BYTES", 2_000_000)])
async def test_an_agent_that_never_reads_is_dropped_while_its_socket_is_full(
    engine: ScriptedEngine, url: str, limit: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_socket, limit, value)
    monkeypatch.setattr(agent_socket, "FAREWELL_S", 0.1)
    engine.padding = bytes(100_000)
    async with agent(url, max_queue=1) as socket:
        for channel in range(16):
            await send(socket, request(channel, b"50"))
        await until(lambda: any(g.aborted for g in engine.generations))
        await until(lambda: tasks_of_agents() == [])
        assert all(g.aborted or g.over for g in engine.generations)
        socket.transport.abort()


async def test_the_connections_of_a_key_are_limited(
    engine: ScriptedEngine, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota, "MAX_CONNECTIONS_PER_KEY", 2)
    async with serving(engine, max_per_key=1) as url, agent(url):
        async with agent(url):
            with pytest.raises(InvalidStatus) as caught:
                await agent(url)
            response = caught.value.response
            assert (response.status_code, response.headers["retry-after"]) == (429, "1")
            error = json.loads(response.body or b"")["error"]
            assert error["code"] == "overloaded"
            assert "2 agents are connected with this API key; the limit is 2" in error["message"]
            async with agent(url, key="other"):
                pass
        for _ in range(3):  # a place is free again, as often as one likes
            async with agent(url):
                pass


@pytest.mark.parametrize(
    "flood",
    [
        [Draft(0, 0, BASE, (10,) * 8), Ack(0, 0)],
        [Resume(9, b"r" * 16, 0)],
        [request(9, b"wait"), Close(9)],
        [request(9, b"full")],
    ],
    ids=["drafts", "resumes", "opens and closes", "refused opens"],
)
async def test_an_agent_that_sends_as_fast_as_it_can_leaves_others_their_turn(
    url: str, flood: list[EdgeMessage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One agent's frames come in heaps; the event loop goes round between them, and others' are dealt with."""
    rounds, dealt_with = 0, Counter[int]()
    receive = GatewayConnection.receive

    async def count_rounds() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    def counted(self: GatewayConnection, frame: bytes | str, now: float) -> None:
        dealt_with[rounds] += 1
        receive(self, frame, now)

    monkeypatch.setattr(GatewayConnection, "receive", counted)
    frames = [Frame(Opcode.BINARY, encode(message)).serialize(mask=True) for message in flood]
    heap = b"".join(frames) * (2**18 // sum(map(len, frames)))
    async with agent(url) as rude, agent(url, key="other") as polite:
        counting = asyncio.create_task(count_rounds())
        await send(rude, request(0, b"wait") if isinstance(flood[0], Draft) else request(0, b"3"))
        await send(rude, Close(0))  # whatever comes for channel 0 now is late, and no fault
        drain = asyncio.create_task(messages_to_the_end(rude))
        rude.transport.write(heap)
        for _ in range(5):
            await send(polite, request(1, b"3"))
            assert (await next_messages(polite, 8))[-1] == End(1, 7)
        most, total = max(dealt_with.values()), dealt_with.total()
        counting.cancel()
        rude.transport.abort()
        await asyncio.wait((drain, counting), timeout=60)
    assert total > 50
    assert most <= 4  # thousands, where all that has come is dealt with in one go


@pytest.mark.parametrize(("ids", "stop"), [(21, ()), (2, ("x" * 200,))])
async def test_what_could_not_be_sent_back_is_not_opened(
    engine: ScriptedEngine, url: str, ids: int, stop: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_socket, "MAX_OPENED_BYTES", 100)
    opening = Opening((1,) * ids, SamplingParams(seed=5), 3, (99,), "toy", stop)
    engine.opening = opening
    async with agent(url) as socket:
        await send(socket, request(0, b"3"))
        refused = await next_message(socket)
        assert isinstance(refused, Failed)
        assert (refused.status, refused.code) == (400, "context_length_exceeded")
        assert b"the limit is 100" in refused.body
        assert engine.generations[0].aborted
        engine.opening = None
        await send(socket, request(0, b"3"))
        assert isinstance(await next_message(socket), Opened)


async def test_a_server_that_stops_aborts_what_runs(engine: ScriptedEngine, url: str) -> None:
    engine.running = False
    async with agent(url) as socket:
        await send(socket, request(0, b"5"), request(1, b"wait"))
        await next_message(socket)
        await until(lambda: engine.waiting == 1)
        assert engine.server is not None
        engine.server.should_exit = True
        assert await messages_to_the_end(socket) == ([], 1012)
        await until(lambda: engine.generations[0].aborted and engine.cancelled == 1)
