"""What both translations give: the body of a chat, the names that an error of it has here, and the way back."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct

from pipesd_core.errors import InvalidRequest
from pipesd_core.openai_body import NOT_JSON
from pipesd_core.openai_values import show

_WORD: Final = r"[\w.\[\]]"


class AnswerTranslator(Protocol):
    """Turns the payloads of one chat answer into those of another API; a whole answer is a payload as well."""

    def take(self, chat: dict[str, Any]) -> list[dict[str, Any]]:
        """What a payload of the chat comes to: events, none perhaps, or the whole answer."""


class Translation(Struct, frozen=True):
    """A request as a chat.

    body: of the chat. names: (what a chat calls something, what this request calls it). answer: makes the translator of
    the answer, from the number of the prompt's tokens.
    """

    body: dict[str, Any]
    names: tuple[tuple[str, str], ...]
    answer: Callable[[int], AnswerTranslator]

    def encoded(self) -> bytes:
        return msgspec.json.encode(self.body)

    def located(self, error: InvalidRequest) -> InvalidRequest:
        """An error of the chat as one of this request: it names what is wrong as the request has it."""
        if error.param is None:
            return error
        for theirs, own in sorted(self.names, key=lambda pair: -len(pair[0])):
            if error.param == theirs or error.param.startswith((f"{theirs}.", f"{theirs}[")):
                param = own + error.param.removeprefix(theirs)
                message = re.sub(f"(?<!{_WORD}){re.escape(theirs)}(?!\\w)", lambda _: own, error.message)  # noqa: B023
                return type(error)(message, param=param)
        return error


def decode(body: bytes) -> dict[str, Any]:
    """The object in a body, without its nulls. Raises InvalidRequest, and nothing else, whatever the bytes are."""
    try:
        value = msgspec.json.decode(body)
    except NOT_JSON as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidRequest(f"the body must be a JSON object, but is {show(value)}")
    return given(value)


def given(value: dict[str, Any]) -> dict[str, Any]:
    """An object without its nulls: they mean "not given" everywhere."""
    return {name: item for name, item in value.items() if item is not None}


def refuse_rest(where: str, rest: dict[str, Any]) -> None:
    """Raise InvalidRequest for the first key of an object that nobody has taken."""
    for name in rest:
        param = f"{where}.{name[:64]}"
        raise InvalidRequest(f"{param} is not served here; leave it out", param=param)
