"""The seam of a streamed answer that one gateway began and another goes on with: the client sees one answer.

The other gateway tells the whole answer again. What the client has already is compared and held back; where an event
goes beyond it, the rest of its text is passed on. `id` and `created` stay those of the first gateway.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from pipesd_agent.session.cannot_splice import CannotSplice
from pipesd_agent.session.event_splice import DeliveredEvents, EventSplice, is_event

MAX_RAW_BYTES: Final = 4 * 2**20
"""Payloads kept undecoded at most; a chunk of a few tokens takes some 200 bytes."""
_HEAD: Final = ("id", "created")
_TEXT_ONLY: Final = frozenset({"index", "text", "delta", "message", "finish_reason", "stop_reason"})


class DeliveredText:
    """What a client has of an answer.

    Payloads are kept as they come and decoded when somebody asks, which is after a fault only.
    """

    def __init__(self) -> None:
        self._raw: list[bytes] = []
        self._raw_bytes = 0
        self._head: dict[str, Any] | None = None
        self._finished = False
        self._has_usage = False
        self._text: list[str] = []
        self._plain = True
        self._events: DeliveredEvents | None = None

    def add(self, payload: bytes) -> None:
        """Note an event that goes to the client."""
        self._raw.append(payload)
        self._raw_bytes += len(payload)
        if self._raw_bytes > MAX_RAW_BYTES:
            self._decode()

    @property
    def head(self) -> dict[str, Any] | None:
        """`id` and `created` of the first event; None: there has been none."""
        self._decode()
        return self._head

    @property
    def finished(self) -> bool:
        """Whether the client has a finish reason."""
        self._decode()
        return self._finished

    @property
    def has_usage(self) -> bool:
        """Whether the client has the event with the token counts."""
        self._decode()
        return self._has_usage

    @property
    def plain(self) -> bool:
        """Whether there was nothing but text in it."""
        self._decode()
        return self._plain and (self._events is None or self._events.plain)

    @property
    def events(self) -> DeliveredEvents | None:
        """What the client has of a stream whose events have names; None: of chunks."""
        self._decode()
        return self._events

    @property
    def text(self) -> str:
        """All of its text. Raises CannotSplice where there was more than text."""
        if not self.plain:
            raise CannotSplice("the answer has more in it than text")
        return "".join(self._text)

    def _decode(self) -> None:
        raw, self._raw, self._raw_bytes = self._raw, [], 0
        for payload in raw:
            event = _decode(payload)
            if is_event(event):
                self._head = self._head or {}
                self._events = self._events or DeliveredEvents()
                self._events.add(event)
                continue
            if self._head is None:
                self._head = {name: event[name] for name in _HEAD if name in event}
            choice = _choice(event)
            if choice is None:
                self._has_usage = True
                continue
            self._finished = self._finished or choice.get("finish_reason") is not None
            text = _text(choice)
            if text is None:
                self._plain = False
            elif text:
                self._text.append(text)


class Splice:
    """Passes on what comes after `delivered`."""

    def __init__(self, delivered: DeliveredText) -> None:
        self._head = delivered.head
        self._known = delivered.text
        self._finished = delivered.finished
        self._has_usage = delivered.has_usage
        self._beyond = delivered.head is None
        self._events = None if delivered.events is None else EventSplice(delivered.events)

    @property
    def caught_up(self) -> bool:
        """Whether all that the client has was told again."""
        return not self._known if self._events is None else self._events.caught_up

    def take(self, payload: bytes) -> bytes | None:
        """What the client gets of an event; None: nothing. Raises CannotSplice."""
        if self._head is None:
            return payload
        if self._events is not None:
            passed = self._events.take(_decode(payload))
            return None if passed is None else msgspec.json.encode(passed)
        event = _decode(payload) | self._head
        choice = _choice(event)
        if choice is None:
            return None if self._has_usage else msgspec.json.encode(event)
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
        return msgspec.json.encode(event)


def _decode(payload: bytes) -> dict[str, Any]:
    try:
        event = msgspec.json.decode(payload)
    except msgspec.DecodeError:
        event = None
    return event if isinstance(event, dict) else {"choices": [{"unknown": True}]}


def _choice(event: dict[str, Any]) -> dict[str, Any] | None:
    """The one choice of an event; None: it has none, only counts."""
    choices = event.get("choices")
    if isinstance(choices, list) and not choices:
        return None
    if isinstance(choices, list) and len(choices) == 1 and isinstance(choices[0], dict):
        return choices[0]
    return {"unknown": True}


def _text(choice: dict[str, Any]) -> str | None:
    """The text of a chunk, or of a whole answer; None: there is more in it than text."""
    if any(value is not None for name, value in choice.items() if name not in _TEXT_ONLY):
        return None
    if "text" in choice:
        return choice["text"] or ""
    message = choice.get("delta", choice.get("message"))
    if not isinstance(message, dict) or any(message[name] for name in message if name not in ("role", "content")):
        return None
    return message.get("content") or ""


def _set_text(choice: dict[str, Any], text: str) -> None:
    if "text" in choice:
        choice["text"] = text
    else:
        choice["delta"] = {"content": text} if text else {}
