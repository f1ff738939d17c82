"""Patterns of JSON schemas: the part of regular expressions on which ECMAScript, Python and Rust agree.

JSON Schema wants ECMAScript's, users check with Python's `re` or pydantic (Rust), and llguidance reads Rust's. They
disagree silently: `[a--b]`, `[[:alpha:]]`, `\\w`, `\\s`, `.`, `a*+`. So a pattern is read here, and written anew in a
way that has one meaning only; a class that they read differently becomes what all of them take (`\\d` the ten ASCII
digits, `\\D` what is no digit in any script). What cannot be read is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from pipesd_core.errors import InvalidRequest
from pipesd_core.openai_values import show

MAX_REPEATS: Final = 1000
"""Largest number in a quantifier."""
MAX_OTHER_NAMES: Final = 65_536
"""Longest pattern of the names that an object's other properties may have."""

_NARROW: Final = {"d": "0-9", "w": "0-9A-Za-z_", "s": r" \t\n\r\f\v"}
"""Insides of a class: characters that are in it by every dialect..."""
_WIDE: Final = {
    "d": r"\p{Nd}",
    "w": r"\p{Alphabetic}\p{M}\p{N}\p{Pc}\x{200c}\x{200d}",
    "s": r"\s\x{1c}-\x{1f}\x{feff}",
}
"""...and by any."""
_ANY: Final = r"[^\n\r\x{2028}\x{2029}]"
_CONTROLS: Final = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v"}
_GROUP: Final = re.compile(r"\((?:\?:|\?P?<[A-Za-z_][A-Za-z_0-9]*>|(?!\?))")
_QUANTIFIER: Final = re.compile(r"(?:([*+?])|\{([0-9]{1,9})(,([0-9]{0,9}))?\})(\??)")
_HEX: Final = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})")


def checked_pattern(pattern: str, where: str) -> str:
    """A pattern in Rust's dialect of texts that match `pattern` by every dialect. Raises InvalidRequest."""
    return _Reader(pattern, where).rewritten()


def anything_but(names: Iterable[str], where: str) -> str:
    """A pattern, in Rust's dialect, of every text but `names`. Raises InvalidRequest if it gets too long."""
    all_names = set(names)
    following: dict[str, set[str]] = {"": set()}
    for name in all_names:
        for end in range(len(name)):
            following.setdefault(name[:end], set()).add(name[end])
        following.setdefault(name, set())
    parts, size = [], 0
    for begin, after in following.items():
        text = "".join(map(_literal, begin))
        if begin not in all_names:
            parts.append(text)
        other = f"[^{''.join(map(_literal, sorted(after)))}]" if after else "(?s:.)"
        parts.append(f"{text}{other}(?s:.*)")
        size += 2 * len(text) + len(other)
        if size > MAX_OTHER_NAMES:
            raise InvalidRequest(
                f"{where} is not supported by this engine beside properties with such long names: make it false",
                param=where,
            )
    return f"^(?:{'|'.join(parts)})$"


class _Reader:
    def __init__(self, pattern: str, where: str) -> None:
        self._text = pattern
        self._where = where
        self._at = 0

    def rewritten(self) -> str:
        parts = []
        while self._at < len(self._text):
            parts.append(self._item())
            parts.append(self._quantifier())
        return "".join(parts)

    def _item(self) -> str:
        char = self._text[self._at]
        if char == "(":
            if (found := _GROUP.match(self._text, self._at)) is None:
                raise self._refused("a group that looks around, is atomic, or has flags")
            self._at = found.end()
            return "(?:"
        self._at += 1
        if char in ")|^$":
            return char
        if char == ".":
            return _ANY
        if char == "[":
            return self._class()
        if char in "*+?{":
            raise self._refused("a quantifier of nothing, of another quantifier, or that may be a plain brace")
        if char != "\\":
            return _literal(char)
        kind = self._escape()
        if len(kind) == 1:
            return _literal(kind)
        kind = kind[1]
        return f"[{_NARROW[kind]}]" if kind in _NARROW else f"[^{_WIDE[kind.lower()]}]"

    def _quantifier(self) -> str:
        found = _QUANTIFIER.match(self._text, self._at)
        if found is None:
            return ""
        before = self._text[self._at - 1 : self._at]
        if before in "(|^$" and self._text[self._at - 2 : self._at] != "\\" + before:
            raise self._refused("a quantifier of nothing")
        sign, least, comma, most, _ = found.groups()
        if any(int(number) > MAX_REPEATS for number in (least, most) if number):
            raise self._refused(f"a quantifier of more than {MAX_REPEATS}")
        self._at = found.end()
        return sign or f"{{{least}{comma or ''}}}"  # lazy or not is the same to a whole text

    def _escape(self) -> str:
        """The character behind a backslash, or a backslash and a letter for a class."""
        char = self._text[self._at : self._at + 1]
        self._at += 1
        if char in "dDwWsS" and char:
            return "\\" + char
        if char in _CONTROLS:
            return _CONTROLS[char]
        if (found := _HEX.match(self._text, self._at - 1)) is not None:
            self._at = found.end()
            code = int(found[1] or found[2], 16)
            if not 0xD800 <= code < 0xE000:
                return chr(code)
        elif char.isascii() and not char.isalnum() and char:
            return char
        raise self._refused(f"the escape \\{char}")

    def _class(self) -> str:
        negated = self._text[self._at : self._at + 1] == "^"
        self._at += negated
        if self._text[self._at : self._at + 1] == "]":
            raise self._refused("an empty class")
        parts = []
        while (char := self._text[self._at : self._at + 1]) != "]":
            if not char:
                raise self._refused("a class without an end")
            begin = self._member()
            if self._text[self._at : self._at + 1] == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                end = self._member()
                if len(begin) > 1 or len(end) > 1 or begin > end:
                    raise self._refused("a range that is none")
                parts.append(f"{_literal(begin)}-{_literal(end)}")
            elif len(begin) == 1:
                parts.append(_literal(begin))
            else:
                kind = begin[1].lower()
                inner, outer = (_WIDE, _NARROW) if negated else (_NARROW, _WIDE)
                parts.append(inner[kind] if begin[1] == kind else f"[^{outer[kind]}]")
        self._at += 1
        return f"[{'^' if negated else ''}{''.join(parts)}]"

    def _member(self) -> str:
        char = self._text[self._at]
        self._at += 1
        return self._escape() if char == "\\" else char

    def _refused(self, what: str) -> InvalidRequest:
        return InvalidRequest(
            f"{self._where} is {show(self._text)}: {what} is not supported by this engine", param=self._where
        )


def _literal(char: str) -> str:
    """A character that stands for itself, in a class too."""
    return char if char.isascii() and char.isalnum() else f"\\x{{{ord(char):x}}}"
