from __future__ import annotations

import pytest

from pipesd_core.errors import ContextLengthExceeded, InvalidRequest
from pipesd_core.translation.messages_events import MessagesAnswer
from pipesd_core.translation.translation import Translation, decode

NAMES = (("messages", "input"), ("messages[1]", "input[0]"), ("messages[1].content", "input[0].output"))


def located(error: InvalidRequest) -> InvalidRequest:
    return Translation({}, NAMES, MessagesAnswer).located(error)


@pytest.mark.parametrize(
    ("theirs", "own"),
    [
        ("messages", "input"),
        ("messages[1].role", "input[0].role"),
        ("messages[1].content[2]", "input[0].output[2]"),
        ("messages[10]", "input[10]"),
        ("messages_of", "messages_of"),
        ("seed", "seed"),
    ],
)
def test_the_longest_name_is_taken(theirs: str, own: str) -> None:
    error = located(InvalidRequest(f"the {theirs} must be shorter", param=theirs))
    assert (error.param, error.message) == (own, f"the {own} must be shorter")


def test_an_error_stays_what_it_is() -> None:
    error = located(ContextLengthExceeded("messages has too many tokens", param="messages"))
    assert type(error) is ContextLengthExceeded
    assert error.body()["error"]["code"] == "context_length_exceeded"
    unnamed = InvalidRequest("the body is wrong")
    assert located(unnamed) is unnamed


@pytest.mark.parametrize("body", [b"", b"[]", b"4", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="the body"):
        decode(body)
