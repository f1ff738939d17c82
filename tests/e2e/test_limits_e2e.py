"""Limits that are of sockets and processes, at real programs; docs/limits.md has them all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import LONG, Asking, Process, agent_process, complete, gateway, openai_error, wait_until
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from pipesd_core.protocol.messages import (
    SUBPROTOCOL,
    VERSION,
    Close,
    Draft,
    EdgeMessage,
    Endpoint,
    Open,
    Resume,
    decode_gateway,
    encode,
)
from pipesd_core.service.limits import MAX_CONNECTIONS, MAX_REFUSED

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

KEYS = "polite\nrude\n"
POLITE = {"authorization": "Bearer polite"}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    directory = tmp_path_factory.mktemp("gateway")
    (directory / "keys").write_text(KEYS)
    flags = ("--api-key-file", str(directory / "keys"), "--n-seq", "6", "--max-sessions-per-key", "4")
    with gateway(directory, *flags) as process:
        yield process
        assert "Traceback" not in process.log.read_text()


@pytest.fixture(scope="module")
def agent(target: Process, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    directory = tmp_path_factory.mktemp("agent")
    (directory / "key").write_text("polite\n")
    with agent_process(directory, target.root, "--gateway-api-key-file", str(directory / "key")) as process:
        yield process
        assert "Traceback" not in process.log.read_text()


def address(process: Process) -> tuple[str, int]:
    url = httpx.URL(process.root)
    assert url.port is not None
    return url.host, url.port


def resident(process: Process) -> float:
    """MiB of memory."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


# Connections.


@pytest.mark.parametrize("of", ["target", "agent"])
def test_more_connections_than_there_may_be(of: str, request: pytest.FixtureRequest) -> None:
    process: Process = request.getfixturevalue(of)
    with contextlib.ExitStack() as held:
        for _ in range(MAX_CONNECTIONS):
            held.enter_context(socket.create_connection(address(process), timeout=10))
        wait_until(lambda: _status(process) == 503)
        response = httpx.get(f"{process.root}/health")
        assert f"{MAX_CONNECTIONS} connections are open" in openai_error(response, 503)["message"]
        assert response.headers["retry-after"] == "1"
        for _ in range(MAX_REFUSED + 5):
            held.enter_context(socket.create_connection(address(process), timeout=10))
        wait_until(lambda: _status(process) == 0)
    wait_until(lambda: _status(process) == 200)


def _status(process: Process) -> int:
    try:
        return httpx.get(f"{process.root}/health").status_code
    except httpx.TransportError:
        return 0


# Clients that do not read.


@pytest.mark.parametrize("of", ["target", "agent"])
def test_clients_that_do_not_read_hold_little(of: str, request: pytest.FixtureRequest) -> None:
    """Their answers stop, and so does what is kept for them; everybody else is served."""
    process: Process = request.getfixturevalue(of)
    headers = POLITE if of == "target" else {}
    complete(process.url, LONG, headers=headers, max_tokens=4, temperature=0)
    before = resident(process)
    body = json.dumps({"prompt": LONG, "stream": True, "max_tokens": 1500, "temperature": 0, "logprobs": 5}).encode()
    lines = ["POST /v1/completions HTTP/1.1", "host: localhost", f"content-length: {len(body)}"]
    head = "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode()
    with contextlib.ExitStack() as held:
        for _ in range(3):
            client = held.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect(address(process))
            client.sendall(head + body)
        time.sleep(1.0)
        for _ in range(2):
            assert complete(process.url, LONG, headers=headers, max_tokens=8, temperature=0)[0]
        assert resident(process) - before < 64
    wait_until(lambda: Asking(process.url, LONG, headers=headers, max_tokens=2).wait(30).complete)


# Agents that send what they like.


FLOODS: dict[str, list[EdgeMessage]] = {
    "opens and closes": [
        Open(9, VERSION, Endpoint.COMPLETIONS, b'{"prompt": "x", "max_tokens": 500}', b""),
        Close(9),
    ],
    "resumes": [Resume(9, b"r" * 16, 0)],
    "drafts": [Draft(0, 0, 0, (1,) * 256)],
    "large opens": [
        Open(9, VERSION, Endpoint.COMPLETIONS, b'{"prompt": "x", "user": "' + b"u" * 3_000_000 + b'"}', b""),
        Close(9),
    ],
}


@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("reads", [True, False], ids=["", "and reads nothing"])
async def test_an_agent_that_floods_leaves_others_untouched(
    target: Process, agent: Process, flood: str, reads: bool
) -> None:
    right = (await asyncio.to_thread(_ask, agent))[0]
    before = resident(target)
    heap = b"".join(Frame(Opcode.BINARY, encode(message)).serialize(mask=True) for message in FLOODS[flood])
    heap *= max(1, 2**18 // len(heap))
    stop = asyncio.Event()
    poured = asyncio.create_task(_rude(target, flood, heap, reads, stop))
    try:
        times = []
        for _ in range(4):
            text, seconds = await asyncio.to_thread(_ask, agent)
            assert text == right
            times.append(seconds)
    finally:
        stop.set()
        size = await asyncio.wait_for(poured, 60)
    print(f"{size / 2**20:.1f} MiB poured; answers in", [f"{seconds:.2f}" for seconds in times])
    assert max(times) < 10
    assert resident(target) - before < 300
    wait_until(lambda: Asking(target.url, LONG, headers=POLITE, max_tokens=2).wait(30).complete, 30)


def _ask(agent: Process) -> tuple[str, float]:
    began = time.monotonic()
    text, _, _ = complete(agent.url, LONG, max_tokens=24, temperature=0)
    return text, time.monotonic() - began


async def _rude(target: Process, flood: str, heap: bytes, reads: bool, stop: asyncio.Event) -> int:
    """Sends as fast as the gateway takes it, on one connection after another; returns bytes."""
    size = 0
    while not stop.is_set():
        async with _connected(target) as rude:
            if not reads:
                rude.transport.pause_reading()
            if flood == "drafts":
                opening = Open(0, VERSION, Endpoint.COMPLETIONS, b'{"prompt": "x", "max_tokens": 500}', b"")
                rude.transport.write(Frame(Opcode.BINARY, encode(opening)).serialize(mask=True))
                await asyncio.sleep(0.1)
            while not stop.is_set() and not rude.transport.is_closing():
                if rude.transport.get_write_buffer_size() < len(heap):
                    rude.transport.write(heap)
                    size += len(heap)
                with contextlib.suppress(ConnectionClosed, TimeoutError):
                    async with asyncio.timeout(0.005):
                        if reads:
                            await rude.recv()
                        else:
                            await asyncio.sleep(0.005)
            rude.transport.abort()
    return size


def _connected(target: Process) -> connect:
    url = target.url.replace("http", "ws", 1) + "/pipesd/ws"
    headers = {"authorization": "Bearer rude"}
    return connect(
        url,
        subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
        additional_headers=headers,
        compression=None,
        ping_interval=None,
        close_timeout=1,
    )


async def test_an_agent_that_opens_sessions_and_never_reads(target: Process, agent: Process) -> None:
    """Its sessions stop when too much is unacknowledged, hold their places for the stall time, and nobody else's."""
    right = (await asyncio.to_thread(_ask, agent))[0]
    async with _connected(target) as rude:
        for channel in range(4):
            body = b'{"prompt": "0, 0, 0, ", "max_tokens": 1500, "temperature": 0, "stream": true}'
            await rude.send(encode(Open(channel, VERSION, Endpoint.COMPLETIONS, body, None)))
        await asyncio.sleep(0.5)
        await rude.send(encode(Open(60, VERSION, Endpoint.COMPLETIONS, b'{"prompt": "x"}', None)))
        refusal = await _first_of(rude, 60)
        assert refusal.status == 429
        assert "the limit is 4" in json.loads(refusal.body)["error"]["message"]
        assert (await asyncio.to_thread(_ask, agent))[0] == right
        rude.transport.abort()


async def _first_of(socket: ClientConnection, channel: int) -> Any:
    async with asyncio.timeout(20):
        while True:
            frame = await socket.recv()
            assert isinstance(frame, bytes)
            message = decode_gateway(frame)
            if getattr(message, "channel", None) == channel:
                return message
