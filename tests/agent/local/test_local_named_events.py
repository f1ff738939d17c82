"""The draft model alone behind `/v1/responses` and `/v1/messages`: labelled, and going on after the target."""

from __future__ import annotations

import json
from typing import Any

import pytest
from chat_chunks import Answer, Cut
from msgspec.structs import replace
from test_model import LABEL, TEXT, edge, session, told

from pipesd_core.protocol.messages import Endpoint, Event
from pipesd_core.translation.messages_events import MessagesAnswer
from pipesd_core.translation.responses_events import ResponsesAnswer

BODIES: dict[Endpoint, dict[str, Any]] = {
    Endpoint.RESPONSES: {"input": "hi", "model": "target"},
    Endpoint.MESSAGES: {
        # More sequences than the draft model's engine takes: what counts is what the target took.
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 20,
        "model": "target",
        "stop_sequences": ["1", "2", "3", "4", "5", "6"],
    },
}


def texts(payloads: list[dict[str, Any]]) -> str:
    deltas = [event["delta"] for event in payloads if event["type"].endswith(("text.delta", "block_delta"))]
    return "".join(delta if isinstance(delta, str) else delta["text"] for delta in deltas)


@pytest.mark.parametrize("endpoint", BODIES)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_whole_answer_is_labelled(endpoint: Endpoint, stream: bool) -> None:
    async with edge() as (alone, _):
        body = BODIES[endpoint] | {"model": "draft", "stop_sequences": ["x"], "stream": stream}
        if endpoint is Endpoint.RESPONSES:
            del body["stop_sequences"]
        answer = await alone.start(endpoint, json.dumps(body).encode(), "no cloud")
        payloads = await told(answer)
        labelled = [payload.get("response", payload) for payload in payloads if "pipesd" in str(payload)]
        assert [payload["pipesd"] for payload in labelled] == [LABEL]
        assert answer.record()["output_tokens"] == answer.output_tokens == len(TEXT) + 1
        if stream:
            assert texts(payloads) == TEXT.decode()


@pytest.mark.parametrize("endpoint", BODIES)
@pytest.mark.parametrize("shown", [0, 2, 3])
async def test_an_answer_goes_on_after_what_the_client_has(endpoint: Endpoint, shown: int) -> None:
    async with edge() as (alone, _):
        stream = session(TEXT[:3])
        body = json.dumps(BODIES[endpoint] | {"stream": True}).encode()
        stream.session._request = replace(stream.session.request, endpoint=endpoint, body=body)
        translator = ResponsesAnswer({}) if endpoint is Endpoint.RESPONSES else MessagesAnswer(2)
        chunks = list(Answer(TEXT[:3].decode()).chunks(Cut([1])))[: 1 + shown]
        before = [event for chunk in chunks for event in translator.take(chunk)]
        for number, event in enumerate(before):
            stream.receive(Event(3, 2 + number, 2 + shown, json.dumps(event).encode()))
        rest = await told(await alone.continue_answer(stream.session, "gone"))
        assert texts(before) == TEXT[:shown].decode()
        assert texts(before + rest) == "abcdef", "up to the stop string of the opening"
        kinds = [event["type"] for event in before + rest]
        once = [kind for kind in kinds if not kind.endswith(("text.delta", "block_delta"))]
        assert len(set(once)) == len(once)
        assert once[-1] == ("response.completed" if endpoint is Endpoint.RESPONSES else "message_stop")
        last = next(event.get("response", event) for event in rest if "pipesd" in str(event))
        assert last["pipesd"] == LABEL | {"from_token": 3}
