"""What travels from the scheduler beside vLLM's outputs stays beside them: no client gets anything of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from harness import MODEL
from test_vllm_draw import run_script
from vllm_server import NOISE, VllmServer, post
from vllm_wire import edge, receive

from pipesd_core.protocol.messages import VERSION, End, Endpoint, Event, Open, encode

pytest_plugins = ("vllm_fixture",)
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

ASKED: dict[Endpoint, dict[str, Any]] = {
    Endpoint.COMPLETIONS: {"prompt": "x = "},
    Endpoint.CHAT_COMPLETIONS: {"messages": [{"role": "user", "content": "x"}]},
}


def test_the_field_survives_vllms_serialisation() -> None:
    assert run_script("outputs_check.py", 600).endswith("ok")


def keys(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys of a JSON value, with what they hold."""
    if isinstance(value, dict):
        yield from value.items()
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from keys(part)


def check(payload: bytes) -> None:
    found = list(keys(msgspec.json.decode(payload)))
    assert found
    assert not [key for key, _ in found if "pipesd" in key or "time" in key]
    assert not [held for key, held in found if key in ("kv_transfer_params", "ec_transfer_params") and held is not None]


@pytest.mark.parametrize("endpoint", list(ASKED))
@pytest.mark.parametrize("stream", [False, True])
def test_no_answer_carries_anything_of_ours(server: VllmServer, endpoint: Endpoint, stream: bool) -> None:
    body = {"model": MODEL, **ASKED[endpoint], "max_tokens": 24, "temperature": 0, "ignore_eos": True, "stream": stream}
    payloads = []
    with edge(server) as socket:
        socket.send(encode(Open(0, VERSION, endpoint, msgspec.json.encode(body), None)))
        while not isinstance(message := receive(socket), End):
            if isinstance(message, Event):
                payloads.append(message.payload)
    assert len(payloads) > 1 if stream else len(payloads) == 1
    path = "completions" if endpoint is Endpoint.COMPLETIONS else "chat/completions"
    ordinary = post(server.url, path, body | NOISE)
    assert ordinary.status_code == 200, ordinary.text
    events = [line.removeprefix("data: ") for line in ordinary.text.split("\n") if line] if stream else [ordinary.text]
    for payload in [*payloads, *(event.encode() for event in events if event != "[DONE]")]:
        check(payload)
