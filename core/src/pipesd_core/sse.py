"""Server-sent events as bytes: written so that every client finds the same lines in them, and read by their own rules.

A line of this format ends with "\\n", "\\r\\n" or "\\r", and with nothing else. Many clients split by Unicode's rules
all the same (Python's `str.splitlines`, httpx's `iter_lines`), for which U+0085, U+2028 and U+2029 end lines too. JSON
may hold these three as they are. Escaped they are the same text to every parser, and no line end to any client.
"""

from __future__ import annotations

from typing import Final

MAX_EVENT_BYTES: Final = 8 * 2**20
"""Largest event of a stream that is read, line ends included."""

_LINE_ENDS: Final = tuple((char.encode(), f"\\u{ord(char):04x}".encode()) for char in "\u0085\u2028\u2029")
"""What Unicode ends lines with and JSON does not escape: in UTF-8, and its escape."""


class EventTooLarge(ValueError):
    """An event has more than MAX_EVENT_BYTES."""


def escaped(json: bytes) -> bytes:
    """Escape U+0085, U+2028 and U+2029 in JSON, be it a value or events that have some as their data.

    Outside of its strings JSON is ASCII, so whatever is found stands in one, where the escape means the same.
    """
    if json.isascii():
        return json
    for found, escape in _LINE_ENDS:
        json = json.replace(found, escape)
    return json


def event(json: bytes) -> bytes:
    """An event with this JSON as its data."""
    return b"data: " + escaped(json) + b"\n\n"


class EventReader:
    """Takes the data of events out of the bytes of a stream, wherever these are cut."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._after_return = False
        self._begun = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of every event that is complete now, in order. Raises EventTooLarge."""
        if self._after_return and chunk:
            chunk = chunk.removeprefix(b"\n")  # of a "\r\n" that was cut in two
            self._after_return = False
        self._after_return = self._after_return or chunk.endswith(b"\r")
        *ended, rest = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        events: list[bytes] = []
        for line in ended:
            self._line += line
            self._take(bytes(self._line), events)
            self._line.clear()
        self._line += rest
        if self._size + len(self._line) > MAX_EVENT_BYTES:
            raise EventTooLarge(f"an event has more than {MAX_EVENT_BYTES} bytes")
        return events

    def _take(self, line: bytes, events: list[bytes]) -> None:
        if not self._begun:
            line = line.removeprefix(b"\xef\xbb\xbf")
            self._begun = True
        name, _, value = line.partition(b":")
        if line and name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._size += len(line) + 1
        elif not line:
            if self._data:
                events.append(b"\n".join(self._data))
            self._data.clear()
            self._size = 0
