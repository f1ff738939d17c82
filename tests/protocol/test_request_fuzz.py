"""Random bodies, from the OpenAI SDK's types, at the gateway's own API and at an agent before it: both say the same.

Both ends are whole: the embedded engine with its own request validation, over a decoder that writes a given answer. The
long form is `make test-full`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from typing import Any

import httpx
import msgspec
import pytest
from both_ends import both_ends
from openai_bodies import FIELDS, bodies

from pipesd_agent.link import passthrough
from pipesd_core.openai_parameters import SERVED, TABLE
from pipesd_core.protocol.messages import Endpoint

SIZES = [pytest.param(2_000, id="ci"), pytest.param(40_000, id="full", marks=[pytest.mark.full])]
AT_ONCE = 4
PATHS = {Endpoint.CHAT_COMPLETIONS: "/v1/chat/completions", Endpoint.COMPLETIONS: "/v1/completions"}


async def answer(client: httpx.AsyncClient, endpoint: Endpoint, body: bytes) -> tuple[int, Any]:
    """The status, and what of the answer is the same at both ends."""
    response = await client.post(PATHS[endpoint], content=body, headers={"content-type": "application/json"})
    if response.headers["content-type"].startswith("text/event-stream"):
        *events, rest = response.text.split("\n\n")
        assert not rest
        assert all(event.startswith("data: ") for event in events)
        last = events.pop().removeprefix("data: ")
        payloads = [json.loads(event.removeprefix("data: ")) for event in events]
        assert last == "[DONE]" or "error" in json.loads(last)
        told = [choice for payload in payloads for choice in payload["choices"]]
        return 200, (_text(told), {payload["model"] for payload in payloads}, last)
    told = response.json()
    if response.status_code != 200:
        return response.status_code, told["error"]
    return 200, (told["choices"], told["model"], told["usage"]["completion_tokens"])


def _text(choices: list[dict[str, Any]]) -> dict[int, str]:
    """The text of each choice of a stream, however it came in pieces."""
    texts: dict[int, str] = {}
    for choice in choices:
        text = choice["text"] if "text" in choice else choice["delta"].get("content", "")
        texts[choice["index"]] = texts.get(choice["index"], "") + text
    return texts


def value_at(body: Any, param: str) -> Any:
    """What a body has at the place that an error names; None: nothing, or null."""
    for part in re.findall(r"[^.\[\]]+", param):
        if isinstance(body, dict):
            body = body.get(part)
        elif isinstance(body, list) and part.isdigit() and int(part) < len(body):
            body = body[int(part)]
        else:
            return None
    return body


def check_words(body: Any, error: dict[str, Any]) -> None:
    """The message is for a client of an HTTP API, and true of what it sent."""
    message, param = error["message"], error["param"]
    assert not any(words in message for words in ("a session", "drafted for")), message
    assert len(message) < 1000
    if param is None:
        assert "JSON" in message, message
        return
    assert param.rpartition(".")[2].partition("[")[0][:60] in message or repr(param)[1:-1] in message, (param, message)
    if "is missing" in message and isinstance(body, dict):
        assert value_at(body, param) is None, (message, body)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("count", SIZES)
async def test_agent_and_gateway_agree_on_every_body(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passthrough, "CONNECT_TIMEOUT_S", 300.0)  # nobody here is away, however slow this machine is
    statuses: Counter[int] = Counter()
    fields: set[str] = set()
    left = bodies(20261130, count)

    async def work(plain: httpx.AsyncClient, drafted: httpx.AsyncClient) -> None:
        for endpoint, body in left:
            raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
            own, through = await asyncio.gather(answer(plain, endpoint, raw), answer(drafted, endpoint, raw))
            assert through == own, (endpoint, body)
            status, told = own
            assert status in (200, 400, 404), (status, told, body)
            if status != 200:
                check_words(body, told)
                assert (status == 404) == (told["code"] == "model_not_found")
            statuses[status] += 1
            fields.update(body if isinstance(body, dict) else ())

    async with both_ends() as clients, asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work(*clients))
    assert statuses.total() == count
    assert statuses[200] > count / 4, f"nearly all were refused: {statuses}"
    assert statuses[400] > count / 4, f"nearly all were served: {statuses}"
    known = {parameter.name for parameter in TABLE}.union(*SERVED.values())
    assert known <= fields


def test_every_field_of_the_sdk_is_known() -> None:
    known = {parameter.name for parameter in TABLE}
    for endpoint, fields in FIELDS.items():
        assert set(fields) <= known | SERVED[endpoint]
