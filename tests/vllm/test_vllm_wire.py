"""What no agent sends, on the real wire: bad drafts end their own session at most, and the engine lives."""

from __future__ import annotations

import time

import msgspec
import pytest
from harness import wait_until
from vllm_server import VllmServer, target_only
from vllm_wire import LONG, edge, park, receive
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from pipesd_core.protocol.messages import (
    SUBPROTOCOL,
    Close,
    Draft,
    End,
    Event,
    Failed,
    Reason,
    Rejected,
    Verdict,
    encode,
)

pytest_plugins = ("vllm_fixture",)
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

PARK_TIMEOUT_S = 5.0


def test_a_parked_session_costs_no_step_and_goes_on_by_itself(server: VllmServer) -> None:
    expected = target_only(server.url, **LONG)[0]
    with edge(server) as socket:
        park(socket)
        figures = server.engine()
        assert figures["parked"] == 1
        time.sleep(1)
        assert server.engine()["steps"] == figures["steps"]
        began, text, reasons = time.monotonic(), "", set()
        while not isinstance(message := receive(socket), End):
            assert isinstance(message, Verdict | Event), message
            if isinstance(message, Verdict):
                reasons.add(message.reason)
            else:
                text = msgspec.json.decode(message.payload)["choices"][0]["text"]
        assert time.monotonic() - began < PARK_TIMEOUT_S + 30
        assert Reason.TIMEOUT in reasons
        assert text == expected
    assert server.engine()["sessions"] == 0


def test_an_edge_that_vanishes_frees_its_parked_sessions(server: VllmServer) -> None:
    with edge(server) as socket:
        for channel in range(3):
            park(socket, channel)
        assert server.engine()["sessions"] == 3
    wait_until(lambda: server.engine()["sessions"] == 0)


@pytest.mark.parametrize("token", [4096, 2**31 - 1])
def test_a_draft_outside_the_vocabulary_ends_its_session_alone(server: VllmServer, token: int) -> None:
    with edge(server) as socket:
        _, bystander = park(socket, 1)
        _, position = park(socket, 0)
        socket.send(encode(Draft.wishing(0, 1, position, (token,), position)))
        while not isinstance(message := receive(socket), Failed):
            pass
        assert message.channel == 0
        assert "outside the vocabulary" in msgspec.json.decode(message.body)["error"]["message"]
        # The other session may have gone on by itself meanwhile; it still takes drafts.
        socket.send(encode(Draft.wishing(1, 2, bystander, (5,), bystander)))
        assert isinstance(receive(socket), Verdict | Event)
    wait_until(lambda: server.engine()["sessions"] == 0)


FRAMES: dict[str, bytes] = {
    "negative": msgspec.msgpack.encode([2, 0, 1, 100, [-1], None]),
    "ten thousand": msgspec.msgpack.encode([2, 0, 1, 100, [5] * 10_000, None]),
    "another's channel": encode(Draft(77, 1, 100, (5,))),
    "no message": b"\xc1",
}


@pytest.mark.parametrize("frame", FRAMES)
def test_a_frame_that_is_refused_harms_nobody_else(server: VllmServer, frame: str) -> None:
    with edge(server) as bystander:
        _, position = park(bystander)
        with edge(server) as socket:
            park(socket)
            socket.send(FRAMES[frame])
            with pytest.raises(ConnectionClosed):  # noqa: PT012  whatever was under way comes first
                while True:
                    message = receive(socket)
                    assert isinstance(message, Rejected | Verdict | Event), message
        bystander.send(encode(Draft.wishing(0, 2, position, (5,), position)))
        assert isinstance(receive(bystander), Verdict | Event)
    wait_until(lambda: server.engine()["sessions"] == 0)


def test_drafts_of_a_finished_session_do_nothing(server: VllmServer) -> None:
    with edge(server) as socket:
        _, position = park(socket)
        socket.send(encode(Close(0)))
        while not isinstance(receive(socket), End):
            pass
        socket.send(encode(Draft.wishing(0, 2, position, (5,), position)))
        park(socket, 1)
    wait_until(lambda: server.engine()["sessions"] == 0)


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
def test_the_socket_asks_for_the_servers_key(server: VllmServer, headers: dict[str, str]) -> None:
    url = f"{server.url.replace('http', 'ws', 1)}/pipesd/ws"
    with pytest.raises(InvalidStatus) as refused:
        connect(url, subprotocols=[SUBPROTOCOL], additional_headers=headers)  # type: ignore[list-item]
    assert refused.value.response.status_code == 401
