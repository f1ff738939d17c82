"""The seam of a stream of named events (`/v1/responses`, `/v1/messages`) that another gateway goes on with.

The answer is one text, so each kind of event comes once, but for the deltas of the text. Names that a server draws (of
the response, of its item) stay those of the first gateway, and so does the count of events.
"""

from __future__ import annotations

from typing import Any, Final

from pipesd_agent.session.cannot_splice import CannotSplice

_TEXTS: Final = frozenset(("response.output_text.delta", "content_block_delta"))
_ONCE: Final = frozenset(
    (
        *("response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"),
        *("response.output_text.done", "response.content_part.done", "response.output_item.done"),
        *("response.completed", "response.incomplete"),
        *("message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop"),
    )
)
_TEXT_ENDS: Final = ("response.output_text.done", "content_block_stop")
_NOTHING: Final = "ping"


def is_event(payload: dict[str, Any]) -> bool:
    """Whether a decoded payload is an event with a name, and no chunk of a chat."""
    return isinstance(payload.get("type"), str) and "choices" not in payload


class DeliveredEvents:
    """What a client has of such a stream.

    Attributes:
        plain: there was nothing but one text in it. once: the events that come once, by their kind. text: all of its
            text. number: of its events.
    """

    def __init__(self) -> None:
        self.plain = True
        self.once: dict[str, dict[str, Any]] = {}
        self.number = 0
        self._text: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._text)

    def add(self, event: dict[str, Any]) -> None:
        """Note an event that goes to the client."""
        self.number += 1
        kind = event["type"]
        if not _is_plain(event) or kind in self.once:
            self.plain = False
        elif kind in _TEXTS:
            self._text.append(_text(event))
        elif kind != _NOTHING:
            self.once[kind] = event


class EventSplice:
    """Passes on what comes after `delivered`, which is plain."""

    def __init__(self, delivered: DeliveredEvents) -> None:
        self._delivered = delivered
        self._known = delivered.text
        self._number = delivered.number
        self._names: dict[Any, Any] = {}
        """What this gateway calls a response, an item, the time of its beginning: what the first one did."""

    @property
    def caught_up(self) -> bool:
        """Whether all of the text that the client has was told again."""
        return not self._known

    def take(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """What the client gets of an event; None: nothing. Raises CannotSplice."""
        kind = event["type"]
        if not _is_plain(event):
            raise CannotSplice("the answer has more in it than text")
        if kind == _NOTHING:
            return None
        if kind in self._delivered.once:
            self._learn(event, self._delivered.once[kind])
            return None
        if kind not in _TEXTS:
            if self._known:
                raise CannotSplice("its text is shorter")
            return self._renamed(event)
        text = _text(event)
        overlap = min(len(text), len(self._known))
        if text[:overlap] != self._known[:overlap]:
            raise CannotSplice("its text is another one")
        self._known, rest = self._known[overlap:], text[overlap:]
        if not rest:
            return None
        if any(end in self._delivered.once for end in _TEXT_ENDS):
            raise CannotSplice("its text is longer")
        return self._renamed(_with_text(event, rest))

    def _learn(self, event: dict[str, Any], before: dict[str, Any]) -> None:
        for part in ("response", "item"):
            if isinstance(event.get(part), dict) and isinstance(before.get(part), dict):
                for name in ("id", "created_at"):
                    if name in event[part]:
                        self._names[name, event[part][name]] = before[part].get(name)

    def _renamed(self, event: dict[str, Any]) -> dict[str, Any]:
        renamed: dict[str, Any] = self._rename(event)
        if "sequence_number" in renamed:
            renamed["sequence_number"] = self._number
        self._number += 1
        return renamed

    def _rename(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._rename(item) for item in value]
        if not isinstance(value, dict):
            return value
        return {
            name: self._names.get(("id" if name == "item_id" else name, item), item)
            if isinstance(item, str | int | float)
            else self._rename(item)
            for name, item in value.items()
        }


def _is_plain(event: dict[str, Any]) -> bool:
    kind = event["type"]
    if kind in _TEXTS:
        delta = event.get("delta")
        of_text = isinstance(delta, str) or (isinstance(delta, dict) and delta.get("type") == "text_delta")
        return of_text and not event.get("logprobs")
    block = event.get("item") or event.get("content_block") or {"type": "text"}
    return kind == _NOTHING or (kind in _ONCE and block.get("type") in ("message", "text"))


def _text(event: dict[str, Any]) -> str:
    delta = event["delta"]
    return str(delta if isinstance(delta, str) else delta.get("text", ""))


def _with_text(event: dict[str, Any], text: str) -> dict[str, Any]:
    delta = event["delta"]
    return event | {"delta": text if isinstance(delta, str) else delta | {"text": text}}
