"""A gateway that does what a test tells it, over a real WebSocket, and messages for it to send."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from msgspec.structs import replace
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from bench.fixed_policies import fixed
from pipesd_agent.control.triggers import DualSettings
from pipesd_agent.link.address import Address
from pipesd_agent.link.gateways import Gateways
from pipesd_agent.link.link import Link
from pipesd_agent.link.network import Network
from pipesd_agent.link.requests import LinkSettings
from pipesd_agent.session.settings import SessionSettings
from pipesd_core.protocol.messages import (
    SUBPROTOCOL,
    EdgeMessage,
    End,
    Event,
    Failed,
    GatewayMessage,
    Open,
    Opened,
    Reason,
    Resume,
    Verdict,
    decode_edge,
    encode,
)
from pipesd_core.protocol.websocket import INSTANCE_HEADER
from pipesd_core.sampling.params import SamplingParams

Script = Callable[["FakeGateway", ServerConnection], Awaitable[None]]


class FakeGateway:
    """received: every message, in order. connections: those that are or were open."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.url = ""
        self.received: list[EdgeMessage] = []
        self.connections: list[ServerConnection] = []
        self.handshakes = 0
        self.stop: Callable[[], None] = lambda: None
        """Takes no new connection."""

    async def serve(self, connection: ServerConnection) -> None:
        self.connections.append(connection)
        await self._script(self, connection)

    async def read(self, connection: ServerConnection) -> EdgeMessage:
        frame = await connection.recv()
        assert isinstance(frame, bytes)
        self.received.append(decode_edge(frame))
        return self.received[-1]

    async def read_all(self, connection: ServerConnection) -> None:
        async for frame in connection:
            assert isinstance(frame, bytes)
            self.received.append(decode_edge(frame))


async def answers(gateway: FakeGateway, connection: ServerConnection) -> None:
    """Answers every request with one token and the payload `{}`."""
    while True:
        message = await gateway.read(connection)
        if type(message).__name__ == "Open":
            await say(connection, *answer(message.channel))


async def forgets(gateway: FakeGateway, connection: ServerConnection) -> None:
    """Knows no session that it is to resume; else as `answers`."""
    while True:
        message = await gateway.read(connection)
        if isinstance(message, Resume):
            await say(connection, Failed(message.channel, "session_unknown", 410, b"{}"))
        elif isinstance(message, Open):
            await say(connection, *answer(message.channel))


async def is_silent(gateway: FakeGateway, connection: ServerConnection) -> None:
    """Reads, and never says a word."""
    await gateway.read_all(connection)


async def say(connection: ServerConnection, *messages: GatewayMessage) -> None:
    for message in messages:
        await connection.send(encode(message))


def opened(channel: int = 0, prompt_ids: tuple[int, ...] = (1, 2), max_tokens: int = 100) -> Opened:
    params = SamplingParams(temperature=0.0, top_p=1.0, top_k=0, seed=7)
    return Opened(channel, bytes(16), prompt_ids, params, max_tokens, (0,), "fake")


def verdict(channel: int, seq: int, start: int, *tokens: int) -> Verdict:
    return Verdict(channel, seq, start, 0, 0, tokens, Reason.RUN, 0, 0, 0)


def answer(channel: int) -> tuple[Opened, Verdict, Event, End]:
    return opened(channel), verdict(channel, 1, 2, 5), Event(channel, 2, 3, b"{}"), End(channel, 3)


@asynccontextmanager
async def fake_gateway(
    script: Script,
    subprotocols: list[Subprotocol] | None = None,
    port: int = 0,
    tls: ssl.SSLContext | None = None,
    instances: tuple[str, ...] = (),
) -> AsyncIterator[FakeGateway]:
    """instances: the names of the servers that the connections come out at, one after the other, the last one again and
    again; an empty one is not told, nor any where there are none."""
    gateway = FakeGateway(script)

    def named(_: ServerConnection, __: Request, response: Response) -> None:
        gateway.handshakes += 1
        if instances and (name := instances[min(gateway.handshakes, len(instances)) - 1]):
            response.headers[INSTANCE_HEADER] = name

    offered = [Subprotocol(SUBPROTOCOL)] if subprotocols is None else subprotocols or None
    async with serve(
        gateway.serve,
        "127.0.0.1",
        port,
        subprotocols=offered,
        ping_interval=None,
        max_size=None,
        ssl=tls,
        process_response=named,
    ) as server:
        gateway.stop = partial(server.close, close_connections=False)
        gateway.url = f"{'wss' if tls else 'ws'}://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/v1/pipesd/ws"
        yield gateway


def gateways(*urls: str) -> Gateways:
    """In the order of preference."""
    return Gateways([Address.parse(url) for url in urls])


def settings(**session: float) -> LinkSettings:
    """Without a grace time, unless told otherwise: a lost link is an error at once."""
    return LinkSettings(None, fixed(DualSettings(), "immediate"), SessionSettings(**{"grace_s": 0.0} | session))  # type: ignore[arg-type]


@asynccontextmanager
async def running_link(
    url: str,
    *more: str,
    network: Network | None = None,
    room_at: Callable[[], float] = lambda: 0.0,
    **session: float,
) -> AsyncIterator[Link]:
    """A link without a drafter, and its task."""
    link = Link(gateways(url, *more), replace(settings(**session), room_at=room_at), None, network)
    task = asyncio.create_task(link.run())
    try:
        yield link
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
