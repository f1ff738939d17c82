"""The figures of an answer that is passed on, as far as its payloads tell them. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from pipesd_core.openai_body import NOT_JSON

_DATA: Final = b"data: "


class _Choice(Struct):
    index: int = 0


class _Usage(Struct):
    prompt_tokens: int
    completion_tokens: int


class _Payload(Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None


class ForwardedFigures:
    """Counts the choices of an answer, and keeps its usage.

    A stream tells its usage only where the request asks for that (`include_usage`), and nothing else counts tokens.
    """

    def __init__(self) -> None:
        self._choices: set[int] = set()
        self._usage: _Usage | None = None

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
        self._usage = found.usage or self._usage

    def record(self) -> dict[str, Any]:
        """The figures for `/v1/pipesd/requests/ID`; null: nobody said."""
        return {
            "prompt_tokens": None if self._usage is None else self._usage.prompt_tokens,
            "output_tokens": None if self._usage is None else self._usage.completion_tokens,
            "choices": len(self._choices),
        }
