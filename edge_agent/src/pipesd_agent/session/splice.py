"""The seam of a streamed answer that one gateway began and another goes on with: the client sees one answer.

The other gateway tells the whole answer again. What the client has already is compared and held back; where an event
goes beyond it, the rest of its text is passed on. `id` and `created` stay those of the first gateway.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

_HEAD: Final = ("id", "created")
_PLAIN: Final = frozenset({"index", "text", "delta", "message", "finish_reason", "stop_reason"})


class CannotSplice(Exception):
    """The other gateway's answer is not the one that the client has the beginning of; or nobody can tell."""


class Shown:
    """What a client has of an answer."""

    def __init__(self) -> None:
        self.head: dict[str, Any] | None = None
        """Of the first event; None: there has been none."""
        self.finished = False
        self.usage = False
        self._text: list[str] = []
        self.plain = True

    @property
    def text(self) -> str:
        """All of it. Raises CannotSplice where there was more than text."""
        if not self.plain:
            raise CannotSplice("the answer has more in it than text")
        return "".join(self._text)

    def add(self, payload: bytes) -> None:
        """An event that goes to the client."""
        said = _decode(payload)
        if self.head is None:
            self.head = {name: said[name] for name in _HEAD if name in said}
        choice = _choice(said)
        if choice is None:
            self.usage = True
            return
        self.finished = self.finished or choice.get("finish_reason") is not None
        text = _text(choice)
        if text is None:
            self.plain = False
        elif text:
            self._text.append(text)


class Splice:
    """Passes on what comes after `shown`."""

    def __init__(self, shown: Shown) -> None:
        self._head = shown.head
        self._known = shown.text
        self._finished = shown.finished
        self._usage = shown.usage
        self._beyond = shown.head is None

    @property
    def caught_up(self) -> bool:
        """Has all been told again that the client has?"""
        return not self._known

    def take(self, payload: bytes) -> bytes | None:
        """What the client gets of an event; None: nothing. Raises CannotSplice."""
        if self._head is None:
            return payload
        said = _decode(payload) | self._head
        choice = _choice(said)
        if choice is None:
            return None if self._usage else msgspec.json.encode(said)
        if not self._beyond:
            text = _text(choice)
            if text is None:
                raise CannotSplice("the answer has more in it than text")
            ends = choice.get("finish_reason") is not None
            overlap = min(len(text), len(self._known))
            if text[:overlap] != self._known[:overlap]:
                raise CannotSplice("its text is another one")
            self._known = self._known[overlap:]
            if ends and self._known:
                raise CannotSplice("its text is shorter")
            if self._finished or (not text[overlap:] and not ends):
                return None
            self._beyond = True
            _set_text(choice, text[overlap:])
        return msgspec.json.encode(said)


def _decode(payload: bytes) -> dict[str, Any]:
    try:
        said = msgspec.json.decode(payload)
    except msgspec.DecodeError:
        said = None
    return said if isinstance(said, dict) else {"choices": [{"unknown": True}]}


def _choice(said: dict[str, Any]) -> dict[str, Any] | None:
    """The one choice of an event; None: it has none, only counts."""
    choices = said.get("choices")
    if isinstance(choices, list) and not choices:
        return None
    if isinstance(choices, list) and len(choices) == 1 and isinstance(choices[0], dict):
        return choices[0]
    return {"unknown": True}


def _text(choice: dict[str, Any]) -> str | None:
    """Of a chunk, or of a whole answer; None: there is more in it than text."""
    if any(value is not None for name, value in choice.items() if name not in _PLAIN):
        return None
    if "text" in choice:
        return choice["text"] or ""
    said = choice.get("delta", choice.get("message"))
    if not isinstance(said, dict) or any(said[name] for name in said if name not in ("role", "content")):
        return None
    return said.get("content") or ""


def _set_text(choice: dict[str, Any], text: str) -> None:
    if "text" in choice:
        choice["text"] = text
    else:
        choice["delta"] = {"content": text} if text else {}
