"""The limit of sessions per API key on a real vLLM server: the flag, the environment, vLLM's keys."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from harness import MODEL
from vllm_server import KEY, VllmServer
from websockets.sync.client import ClientConnection, connect

from pipesd_core.protocol.messages import (
    SUBPROTOCOL,
    VERSION,
    Close,
    Draft,
    End,
    Endpoint,
    Event,
    Failed,
    Open,
    Opened,
    Verdict,
    decode_gateway,
    encode,
)

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

OTHER = "sk-other"
BODY = {"model": MODEL, "prompt": "0, " * 40, "max_tokens": 800, "ignore_eos": True}


def edge(server: VllmServer, key: str) -> ClientConnection:
    return connect(
        f"{server.url.replace('http', 'ws', 1)}/pipesd/ws",
        subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
        additional_headers={"Authorization": f"Bearer {key}"},
        compression=None,
    )


def next_message(socket: ClientConnection) -> Opened | Failed | End:
    """The next message that is not about tokens."""
    while True:
        frame = socket.recv(timeout=60)
        assert isinstance(frame, bytes)
        match decode_gateway(frame):
            case Verdict() | Event():
                pass
            case Opened() | Failed() | End() as message:
                return message
            case other:
                raise AssertionError(other)


def ask(socket: ClientConnection, channel: int) -> Opened | Failed | End:
    """Open a session and stop its free run."""
    socket.send(encode(Open(channel, VERSION, Endpoint.COMPLETIONS, msgspec.json.encode(BODY), b"")))
    answer = next_message(socket)
    if isinstance(answer, Opened):
        socket.send(encode(Draft(channel, 1, len(answer.prompt_ids), ())))
    return answer


def test_sessions_are_counted_per_key(tmp_path: Path) -> None:
    flags = ("--max-sessions-per-key", "2", "--api-key", KEY, OTHER)
    with (
        VllmServer(tmp_path, *flags) as server,
        edge(server, KEY) as first,
        edge(server, KEY) as second,
        edge(server, OTHER) as other,
    ):
        assert isinstance(ask(first, 0), Opened)
        assert isinstance(ask(second, 0), Opened)
        refused = ask(first, 1)
        assert isinstance(refused, Failed)
        assert (refused.channel, refused.status, refused.retry_after_s) == (1, 429, 1)
        assert b"2 sessions are open with this API key; the limit is 2" in refused.body
        assert isinstance(ask(other, 0), Opened)
        second.send(encode(Close(0)))
        assert isinstance(next_message(second), End)
        assert isinstance(ask(first, 1), Opened)
