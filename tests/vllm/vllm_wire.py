"""An edge without an agent: single messages on the real wire."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from harness import LONG as LONG_PROMPT
from harness import MODEL
from vllm_server import KEY, VllmServer
from websockets.sync.client import ClientConnection, connect

from pipesd_core.protocol.messages import (
    SUBPROTOCOL,
    VERSION,
    Ack,
    Draft,
    Endpoint,
    Event,
    GatewayMessage,
    Open,
    Opened,
    Verdict,
    decode_gateway,
    encode,
)

LONG: dict[str, Any] = {"prompt": LONG_PROMPT, "max_tokens": 200, "temperature": 0, "ignore_eos": True}


@contextmanager
def edge(server: VllmServer) -> Iterator[ClientConnection]:
    """A connection without an agent."""
    with connect(
        f"{server.url.replace('http', 'ws', 1)}/pipesd/ws",
        subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
        additional_headers={"Authorization": f"Bearer {KEY}"},
        compression=None,
    ) as socket:
        yield socket


def receive(socket: ClientConnection) -> GatewayMessage:
    frame = socket.recv(timeout=60)
    assert isinstance(frame, bytes)
    message = decode_gateway(frame)
    if isinstance(message, Verdict | Event):
        socket.send(encode(Ack(message.channel, message.seq)))
    return message


def park(socket: ClientConnection, channel: int = 0, **body: Any) -> tuple[Opened, int]:
    """Open a session and end its free run; returns the next position when it is parked."""
    asked = msgspec.json.encode({"model": MODEL, **LONG, **body})
    # One token and no more: a target that writes on until the draft below arrives may have written all by then.
    socket.send(encode(Open(channel, VERSION, Endpoint.COMPLETIONS, asked, b"", free_start=1)))
    opened = receive(socket)
    assert isinstance(opened, Opened), opened
    position = len(opened.prompt_ids)
    socket.send(encode(Draft(channel, 1, position, ())))
    silent = False
    while not silent:
        try:
            frame = socket.recv(timeout=1.0)
        except TimeoutError:
            silent = True
        else:
            assert isinstance(frame, bytes)
            message = decode_gateway(frame)
            if isinstance(message, Verdict | Event):
                socket.send(encode(Ack(message.channel, message.seq)))
            if isinstance(message, Verdict):
                position = message.start + len(message.tokens)
    return opened, position
