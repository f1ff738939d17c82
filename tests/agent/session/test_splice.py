"""The seam between two gateways' answers: nothing twice, nothing missing, nothing changed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pipesd_agent.session import splice
from pipesd_agent.session.cannot_splice import CannotSplice
from pipesd_agent.session.splice import DeliveredText, Splice


def completion(text: str, end: str | None = None, name: str = "new", **more: Any) -> bytes:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": end, **more}
    return msgspec.json.encode({"id": name, "created": len(name), "choices": [choice]})


def chat(delta: dict[str, Any], end: str | None = None, name: str = "new") -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": end}
    return msgspec.json.encode({"id": name, "created": len(name), "choices": [choice]})


def usage(name: str = "new") -> bytes:
    return msgspec.json.encode({"id": name, "created": len(name), "choices": [], "usage": {"total_tokens": 3}})


def delivered(*payloads: bytes) -> DeliveredText:
    seen = DeliveredText()
    for payload in payloads:
        seen.add(payload)
    return seen


def test_what_the_client_has_is_held_back_and_the_rest_passed_on() -> None:
    assert not Splice(delivered(completion("a"))).caught_up
    splice = Splice(delivered(completion("ab", name="old"), completion("c", name="old")))
    assert splice.take(completion("a")) is None
    assert splice.take(completion("bc")) is None
    assert splice.caught_up
    assert splice.take(completion("")) is None
    assert splice.take(completion("d")) == completion("d", name="old")
    assert splice.take(completion("", "stop")) == completion("", "stop", name="old")
    assert splice.take(usage()) == usage("old")


def test_an_event_that_goes_beyond_is_cut() -> None:
    splice = Splice(delivered(completion("ab", name="old")))
    assert splice.take(completion("abcd", "length")) == completion("cd", "length", name="old")


def test_the_role_is_said_once() -> None:
    splice = Splice(delivered(chat({"role": "assistant", "content": "a"}, name="old")))
    assert splice.take(chat({"role": "assistant", "content": ""})) is None
    assert splice.take(chat({"content": "ab"})) == chat({"content": "b"}, name="old")
    splice = Splice(delivered(chat({"role": "assistant", "content": "a"}, name="old")))
    assert splice.take(chat({"role": "assistant", "content": "a"}, "stop")) == chat({}, "stop", name="old")


def test_the_end_and_the_counts_are_said_once() -> None:
    splice = Splice(delivered(completion("a", "stop", name="old")))
    assert splice.take(completion("a", "stop")) is None
    assert splice.take(usage()) == usage("old")
    splice = Splice(delivered(completion("a", "stop", name="old"), usage("old")))
    assert splice.take(completion("a", "stop")) is None
    assert splice.take(usage()) is None
    assert splice.caught_up


def test_a_client_that_has_nothing_gets_the_new_answer_as_it_is() -> None:
    splice = Splice(DeliveredText())
    for payload in (chat({"tool_calls": [{"index": 0}]}), b"not JSON", usage()):
        assert splice.take(payload) == payload
    assert splice.caught_up


@pytest.mark.parametrize("payload", [completion("b"), completion("ax"), completion("a", "stop")])
def test_a_text_that_differs_is_refused(payload: bytes) -> None:
    with pytest.raises(CannotSplice, match="its text is"):
        Splice(delivered(completion("ab"))).take(payload)


@pytest.mark.parametrize(
    "payload",
    [
        chat({"tool_calls": [{"index": 0}]}),
        chat({"reasoning_content": "hm"}),
        completion("a", logprobs={"tokens": ["a"]}),
        msgspec.json.encode({"choices": [{"text": "a"}, {"text": "b"}]}),
        b"not JSON",
        b"[]",
    ],
)
def test_more_than_text_cannot_be_spliced(payload: bytes) -> None:
    with pytest.raises(CannotSplice, match="more in it than text"):
        Splice(delivered(payload))
    with pytest.raises(CannotSplice, match="more in it than text"):
        Splice(delivered(completion("a"))).take(payload)


def test_what_was_spliced_can_be_spliced_again() -> None:
    seen = delivered(completion("ab", name="old"))
    passed = Splice(seen).take(completion("abc"))
    assert passed is not None
    seen.add(passed)
    assert seen.text == "abc"
    assert Splice(seen).take(completion("abcd", name="third")) == completion("d", name="old")


def test_of_a_long_answer_the_text_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splice, "MAX_RAW_BYTES", 3 * len(completion("a")))
    seen = delivered(*[completion("a")] * 4)
    assert seen._raw == []
    seen.add(completion("b"))
    assert seen.text == "aaaab"
