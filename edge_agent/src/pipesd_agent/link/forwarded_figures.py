"""The figures of an answer that is passed on, as far as its payloads tell them. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from pipesd_core.answer_format import counts_of, usage_in
from pipesd_core.openai_body import NOT_JSON

_DATA: Final = b"data: "


class _Choice(Struct):
    index: int = 0


class _Payload(Struct):
    choices: list[_Choice] = []
    usage: Any = None
    response: Any = None
    type: Any = None
    output: Any = None


class ForwardedFigures:
    """Counts the choices of an answer, and keeps its usage.

    A stream tells its usage only where the request asks for that (`include_usage`), and nothing else counts tokens.
    """

    def __init__(self) -> None:
        self._choices: set[int] = set()
        self._tokens: tuple[int | None, int | None] = None, None

    def take_events(self, events: bytes) -> None:
        """Take whole server-sent events."""
        for line in events.split(b"\n"):
            if line.startswith(_DATA):
                self.take_payload(line.removeprefix(_DATA))

    def take_payload(self, payload: bytes) -> None:
        """Take a whole answer, or the data of one event. What is no such payload tells nothing."""
        try:
            found = msgspec.json.decode(payload, type=_Payload)
        except NOT_JSON:
            return
        self._choices.update(choice.index for choice in found.choices)
        if found.type is not None or found.output is not None:  # of a response or a message, which is one
            self._choices.add(0)
        usage = usage_in({"usage": found.usage, "response": found.response})
        if usage is not None and all(type(count) is int for count in counts_of(usage)):
            self._tokens = counts_of(usage)

    def record(self) -> dict[str, Any]:
        """The figures for `/v1/pipesd/requests/ID`; null: nobody said."""
        return {
            "prompt_tokens": self._tokens[0],
            "output_tokens": self._tokens[1],
            "choices": len(self._choices),
        }
