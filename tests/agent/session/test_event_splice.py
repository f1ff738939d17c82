"""The seam between two gateways' streams of named events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from chat_chunks import HEAD, Answer, Call, Cut, cuts
from hypothesis import given
from hypothesis import strategies as st

from pipesd_agent.session.cannot_splice import CannotSplice
from pipesd_agent.session.splice import DeliveredText, Splice
from pipesd_core.translation.messages_events import MessagesAnswer
from pipesd_core.translation.responses_events import ResponsesAnswer

ROUTES: dict[str, Callable[[], Any]] = {"responses": lambda: ResponsesAnswer({}), "messages": lambda: MessagesAnswer(7)}


def told(route: str, answer: Answer, cut: Cut, name: str) -> list[dict[str, Any]]:
    """The events of an answer, as a gateway tells it that names it so."""
    translator = ROUTES[route]()
    head = {"id": f"chatcmpl-{name}", "created": HEAD["created"] + len(name)}
    return [event for chunk in answer.chunks(cut) for event in translator.take(chunk | head)]


def spliced(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a client gets: `first`, then what of `second` goes on with it."""
    delivered = DeliveredText()
    for event in first:
        delivered.add(msgspec.json.encode(event))
    splice = Splice(delivered)
    rest = [splice.take(msgspec.json.encode(event)) for event in second]
    assert splice.caught_up
    return first + [msgspec.json.decode(event) for event in rest if event is not None]


def text_of(events: list[dict[str, Any]]) -> str:
    deltas = [event["delta"] for event in events if event["type"].endswith(("text.delta", "block_delta"))]
    return "".join(delta if isinstance(delta, str) else delta["text"] for delta in deltas)


def without_deltas(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept = [event for event in events if not event["type"].endswith(("text.delta", "block_delta"))]
    return [{name: value for name, value in event.items() if name != "sequence_number"} for event in kept]


def renamed(events: list[dict[str, Any]], route: str, at: int) -> list[dict[str, Any]]:
    """The events of the second gateway as a client gets them that has `at` of the first: whoever names it first."""
    text = msgspec.json.encode(events).decode()
    if route == "responses":
        text = text.replace("msg_newer0", "msg_old0") if at > 2 else text
        if at > 0:
            text = text.replace("resp_newer", "resp_old").replace(str(HEAD["created"] + 5), str(HEAD["created"] + 3))
    elif at > 0:
        text = text.replace("msg_newer", "msg_old")
    decoded: list[dict[str, Any]] = msgspec.json.decode(text)
    return decoded


@pytest.mark.parametrize("route", ROUTES)
@given(st.text(max_size=20), cuts, cuts, st.integers(0, 30))
def test_a_client_gets_the_first_gateway_s_answer_wherever_it_is_cut(
    route: str, text: str, first_cut: Cut, second_cut: Cut, at: int
) -> None:
    answer = Answer(text)
    first, second = told(route, answer, first_cut, "old"), told(route, answer, second_cut, "newer")
    got = spliced(first[:at], second)
    assert text_of(got) == text
    assert without_deltas(got) == renamed(without_deltas(second), route, at)
    if route == "responses":
        assert [event["sequence_number"] for event in got] == list(range(len(got)))


def test_events_are_counted_on_from_what_the_client_has() -> None:
    first, second = told("responses", Answer("Hello"), Cut([1]), "x"), told("responses", Answer("Hello"), Cut([9]), "x")
    got = spliced(first[:7], second)
    assert [event["delta"] for event in got if event["type"].endswith("text.delta")] == ["H", "e", "l", "lo"]
    assert [event["sequence_number"] for event in got] == list(range(len(got)))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("other", ["Hi!", "Hx", "H"])
def test_another_text_is_no_rest(route: str, other: str) -> None:
    first, second = (told(route, Answer(text), Cut([1]), "x") for text in ("Hi", other))
    ends = {"responses": "response.output_text.done", "messages": "content_block_stop"}[route]
    upto = [event["type"] for event in first].index(ends) + (other == "Hi!")
    with pytest.raises(CannotSplice):
        spliced(first[:upto], second)


@pytest.mark.parametrize("route", ROUTES)
def test_more_than_a_text_is_not_compared(route: str) -> None:
    calls = told(route, Answer("Hi", (Call("go", "{}"),)), Cut([1]), "x")
    with pytest.raises(CannotSplice, match="more in it than text"):
        spliced(calls[:-2], calls)
    text = told(route, Answer("Hi"), Cut([1]), "x")
    with pytest.raises(CannotSplice, match="more in it than text"):
        spliced(text[:3], told(route, Answer("", (Call("go", "{}"),)), Cut([1]), "x"))


def test_a_whole_answer_passes_where_nothing_was_told() -> None:
    splice = Splice(DeliveredText())
    assert splice.take(b'{"object":"response"}') == b'{"object":"response"}'
