from __future__ import annotations

from typing import Any

import pytest
from chat_chunks import HEAD, Answer, Call, Cut, answers, cuts
from hypothesis import given
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from pipesd_core.translation.responses_events import ResponsesAnswer

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
REQUEST = {"instructions": "Be brief.", "tools": [{"type": "function", "name": "look"}], "temperature": 0}


def stream(answer: Answer, cut: Cut) -> list[dict[str, Any]]:
    translator = ResponsesAnswer(REQUEST)
    return [event for chunk in answer.chunks(cut) for event in translator.take(chunk)]


def whole(answer: Answer) -> dict[str, Any]:
    (response,) = ResponsesAnswer(REQUEST).take(answer.whole())
    return response


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


@given(answers, cuts)
def test_a_stream_ends_with_the_whole_response_however_it_is_cut(answer: Answer, cut: Cut) -> None:
    events = stream(answer, cut)
    assert events[-1]["response"] == whole(answer)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


@given(answers, cuts)
def test_every_event_is_one_of_the_sdk_s(answer: Answer, cut: Cut) -> None:
    for event in stream(answer, cut):
        assert EVENTS.validate_python(event).type == event["type"]
    Response.model_validate(whole(answer))


@given(answers, cuts)
def test_the_deltas_of_an_item_are_its_text(answer: Answer, cut: Cut) -> None:
    written: dict[str, str] = {}
    for event in stream(answer, cut):
        if event["type"].endswith(".delta"):
            written[event["item_id"]] = written.get(event["item_id"], "") + event["delta"]
        elif event["type"] == "response.output_item.done":
            item = event["item"]
            text = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
            assert written.pop(item["id"], "") == text
    assert not written


def test_a_text_is_told_in_this_order() -> None:
    assert types(stream(Answer("Hi there"), Cut([3]))) == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *["output_text.delta"] * 3,
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]


def test_calls_are_told_in_this_order() -> None:
    events = stream(Answer("", (Call("look", "{}"), Call("go", "")), finish="tool_calls"), Cut([9]))
    assert types(events) == [
        *("created", "in_progress"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.done", "output_item.done"),
        "completed",
    ]
    look, go = events[-1]["response"]["output"]
    assert (look["call_id"], look["name"], look["arguments"], look["status"]) == ("call_0", "look", "{}", "completed")
    assert (go["call_id"], go["name"], go["arguments"]) == ("call_1", "go", "")


def test_thoughts_are_an_item_before_the_text() -> None:
    thoughts, text = whole(Answer("Yes", thoughts="Hm"))["output"]
    assert thoughts["content"] == [{"type": "reasoning_text", "text": "Hm"}]
    assert text["content"][0]["text"] == "Yes"


def test_what_was_cut_off_says_so() -> None:
    *_, last = stream(Answer("Hi", finish="length"), Cut([9]))
    assert last["type"] == "response.incomplete"
    response = last["response"]
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert response["output"][0]["status"] == "incomplete"


def test_an_answer_without_text_has_a_message() -> None:
    (item,) = whole(Answer())["output"]
    assert item["content"] == [{"type": "output_text", "text": "", "annotations": [], "logprobs": []}]


def test_a_response_repeats_its_request_and_counts() -> None:
    response = whole(Answer("Hi"))
    assert (response["id"], response["created_at"], response["model"]) == ("resp_0a1b", HEAD["created"], "target")
    assert (response["instructions"], response["temperature"], response["top_p"]) == ("Be brief.", 0, 1.0)
    assert response["tools"][0]["name"] == "look"
    usage = response["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (7, 5, 12)


@pytest.mark.parametrize("streamed", [True, False])
def test_logprobs_are_those_of_the_tokens(streamed: bool) -> None:
    tokens = [{"token": token, "bytes": [97], "logprob": -0.5, "top_logprobs": []} for token in ("H", "i", "!")]
    translator = ResponsesAnswer({})
    if streamed:
        chunks = list(Answer("Hi").chunks(Cut([1])))
        for chunk, token in zip(chunks[1:4], tokens, strict=True):
            chunk["choices"][0]["logprobs"] = {"content": [token]}
        events = [event for chunk in chunks for event in translator.take(chunk)]
        deltas = [event["logprobs"] for event in events if event["type"] == "response.output_text.delta"]
        assert deltas == [tokens[:1], tokens[1:2]]
        response = events[-1]["response"]
    else:
        chat = Answer("Hi").whole()
        chat["choices"][0]["logprobs"] = {"content": tokens}
        (response,) = translator.take(chat)
    assert response["output"][0]["content"][0]["logprobs"] == tokens
