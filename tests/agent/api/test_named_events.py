"""`/v1/responses` and `/v1/messages` of the agent over a link that answers as the test says."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from fake_gateway import opened, verdict
from test_app import client_of

from pipesd_agent.session.stream import RequestStream
from pipesd_core.errors import Unavailable
from pipesd_core.protocol.messages import End, Event

USAGE = {"input_tokens": 2, "output_tokens": 1, "total_tokens": 3}
RESPONSES: list[dict[str, Any]] = [
    {"type": "response.created", "sequence_number": 0, "response": {"id": "resp_1", "usage": None}},
    {"type": "response.output_text.delta", "sequence_number": 1, "delta": "a"},
    {"type": "response.completed", "sequence_number": 2, "response": {"id": "resp_1", "usage": USAGE}},
]
MESSAGES: list[dict[str, Any]] = [
    {"type": "message_start", "message": {"id": "msg_1", "usage": USAGE}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": USAGE},
    {"type": "message_stop"},
]
ROUTES = [("/v1/responses", RESPONSES), ("/v1/messages", MESSAGES)]


def telling(payloads: list[dict[str, Any]], *, end: bool = True) -> Any:
    def script(stream: RequestStream, _: bool) -> None:
        stream.receive(opened(3))
        stream.receive(verdict(3, 1, 2, 5))
        for number, payload in enumerate(payloads):
            usage = "usage" in payload or (payload.get("response") or {}).get("usage") is not None
            stream.receive(Event(3, 2 + number, 3, msgspec.json.encode(payload), usage=usage))
        if end:
            stream.receive(End(3, 2 + len(payloads)))
        else:
            stream.link_lost(Unavailable("gone"))

    return script


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for event in text.split("\n\n")[:-1]:
        name, data = event.split("\n")
        found.append((name.removeprefix("event: "), msgspec.json.decode(data.removeprefix("data: "))))
    return found


@pytest.mark.parametrize(("path", "payloads"), ROUTES)
async def test_events_have_names_figures_and_a_record(path: str, payloads: list[dict[str, Any]]) -> None:
    async with client_of(telling(payloads)) as (client, agent, _):
        response = await client.post(path, json={"stream": True})
        events = events_of(response.text)
        assert [name for name, _ in events] == [payload["type"] for payload in payloads]
        counted = [data for _, data in events if "pipesd" in str(data)]
        assert len(counted) == 1
        body = counted[0].get("response", counted[0])
        assert body["usage"]["pipesd"]["target_forwards"] == 1
        assert (body["timings"]["prompt_n"], body["timings"]["predicted_n"]) == (2, 1)
        assert agent.records.get(response.headers["x-request-id"]) is not None
        scraped = (await client.get("/metrics")).text
        assert 'requests_finished_total{outcome="completed",route="session"} 1.0' in scraped


@pytest.mark.parametrize(("path", "payloads"), ROUTES)
async def test_a_whole_answer(path: str, payloads: list[dict[str, Any]]) -> None:
    whole = {"id": "x", "usage": USAGE, "type": payloads[0]["type"]}
    async with client_of(telling([whole])) as (client, _, _link):
        body = (await client.post(path, json={})).json()
        assert body["usage"]["pipesd"]["target_forwards"] == 1
        assert body["timings"]["predicted_n"] == 1


@pytest.mark.parametrize(("path", "payloads"), ROUTES)
@pytest.mark.parametrize("cut", [1, 2])
async def test_what_breaks_off_ends_with_an_error(path: str, payloads: list[dict[str, Any]], cut: int) -> None:
    async with client_of(telling(payloads[:cut], end=False)) as (client, _, _link):
        *told, (name, last) = events_of((await client.post(path, json={"stream": True})).text)
        assert len(told) == cut
        assert (name, last["type"], last["error"]["message"]) == ("error", "error", "gone")
        if path == "/v1/responses":
            assert (last["sequence_number"], last["message"], last["code"]) == (cut, "gone", "unavailable")
        else:
            assert last["error"]["type"] == "overloaded_error"
        scraped = (await client.get("/metrics")).text
        assert 'requests_finished_total{outcome="failed",route="session"} 1.0' in scraped


@pytest.mark.parametrize(("path", "payloads"), ROUTES)
async def test_the_last_event_is_not_told_before_the_end_of_the_session(path: str, payloads: Any) -> None:
    async with client_of(telling(payloads, end=False)) as (client, _, _link):
        *_, (name, _) = events_of((await client.post(path, json={"stream": True})).text)
        assert name == "error"


@pytest.mark.parametrize(("path", "payloads"), ROUTES)
async def test_an_end_without_a_last_event_is_an_error(path: str, payloads: Any) -> None:
    async with client_of(telling(payloads[:2])) as (client, _, _link):
        *_, (name, last) = events_of((await client.post(path, json={"stream": True})).text)
        assert (name, last["error"]["message"]) == ("error", "the gateway's answer has no end; try again")
