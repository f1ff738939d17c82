"""Calls of functions in the text of an answer: the formats that chat templates teach, and their one parser.

The parser takes the text as it comes and gives what a client may see: content, the beginning of a call, pieces of its
arguments. What comes out is a function of the text alone, never of where it was cut. Arguments are passed on as the
model wrote them, from the moment on at which the name and the first brace are there; before that nothing is decided,
and text that only begins like a call is content after all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from pipesd_core.openai_body import NOT_JSON

_BLANKS: Final = " \t\n\r"
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_CHARS: Final = 9
"""Length of a call's id: the templates of Mistral's models take no other."""


class CallFormat(Struct, frozen=True):
    """The way in which a model writes calls, each of them a JSON object with its name and its arguments.

    opening: begins one or more calls; "": nothing does. at_beginning: a call may also be the first thing in the text,
    without `opening`. listed: the objects may be in brackets. separator: between two of them; without brackets it may
    be missing. closing: ends each; "": nothing does.
    """

    name: str
    opening: str = ""
    at_beginning: bool = False
    listed: bool = False
    separator: str = ""
    closing: str = ""


HERMES: Final = CallFormat("Hermes", opening="<tool_call>", closing="</tool_call>")
LLAMA3: Final = CallFormat("Llama 3", opening="<|python_tag|>", at_beginning=True, separator=";")
MISTRAL: Final = CallFormat("Mistral", opening="[TOOL_CALLS]", listed=True, separator=",")
PLAIN: Final = CallFormat("plain", at_beginning=True, listed=True, separator=",")
"""The JSON alone: what is written where a grammar forces calls, whatever the chat template teaches."""
TAUGHT: Final = (HERMES, LLAMA3, MISTRAL)
"""The formats that are known from chat templates."""


class CallDelta(Struct, frozen=True):
    """A piece of a call. name: in its first piece, and in no other."""

    index: int
    name: str | None = None
    arguments: str = ""


class AnswerDelta(Struct, frozen=True):
    """What a client may see of an answer and has not seen before."""

    content: str = ""
    calls: tuple[CallDelta, ...] = ()


class CallRules(Struct, frozen=True):
    """The calls that an answer may have.

    form: None: there are none, all of the text is content. names: of the functions; a call of another one is content.
    most: calls after which the answer ends; None: no limit. markers: tokens of `form` that are no text otherwise.
    """

    form: CallFormat | None = None
    names: tuple[str, ...] = ()
    most: int | None = None
    markers: frozenset[int] = frozenset()


class _NotACall(Exception):
    """What began like a call is none, or does not go on like one: its newest character does not fit."""


_Reading = Generator[None, str, None]
"""Gets the characters one by one; the newest is `CallParser._char`."""


class CallParser:
    """The content and the calls in the text of one answer."""

    def __init__(self, rules: CallRules) -> None:
        self._form = rules.form
        self._names = rules.names
        self._most = rules.most
        self._char = ""
        self._held: list[str] = []
        """Characters that are not decided: of content, or of a call."""
        self._solid = False
        """Whether one of them that is not the newest is no blank."""
        self._blank = True
        """Nothing but calls and blanks so far, or since the last call: then blanks may belong to neither."""
        self._inside = False
        """Between the beginning of a call and its end: nothing is held."""
        self._behind_call = False
        """Between the end of a call and the end of what may follow it."""
        self._content: list[str] = []
        self._pieces: list[tuple[int, str | None, list[str]]] = []
        self._count = 0
        self._over = False
        self._reading = None if rules.form is None else self._read(rules.form)
        if self._reading is not None:
            next(self._reading)

    @property
    def held(self) -> int:
        """Number of the last characters that are not decided yet."""
        return len(self._held)

    @property
    def called(self) -> bool:
        """Whether there was a call, and each that began has ended."""
        return self._count > 0 and not self._inside

    def push(self, text: str) -> bool:
        """Take the next text. True: the answer ends here, with its last call; what follows is dropped."""
        if self._reading is None:
            self._content.append(text)
            return False
        for char in text:
            if self._over:
                break
            self._reading.send(char)
        return self._over

    def finish(self) -> None:
        """End the answer: what was held back is content, but for what only stands between calls and after them."""
        if self._form is None:
            return
        rest = "".join(self._held).strip(_BLANKS + self._form.separator)
        between = not rest or (self._behind_call and self._form.closing.startswith(rest))
        if self._over or (self._count and between):
            self._forget()
        else:
            self._show()

    def take(self) -> AnswerDelta:
        """What may be shown and was not taken before."""
        calls = tuple(CallDelta(index, name, "".join(pieces)) for index, name, pieces in self._pieces)
        delta = AnswerDelta("".join(self._content), calls)
        self._content.clear()
        self._pieces.clear()
        return delta

    # What reads: each begins at the newest character, and ends at the first one that is not its own.

    def _read(self, form: CallFormat) -> _Reading:
        yield from self._next_visible()
        begins = form.at_beginning and self._char in ("{[" if form.listed else "{")
        while True:
            try:
                if not begins:
                    yield from self._text(form.opening)
                begins = False
                yield from self._calls(form)
            except _NotACall:
                pass
            self._behind_call = False

    def _text(self, opening: str) -> _Reading:
        """Read content and the next opening, and the blanks behind it."""
        matched = 0
        while True:
            if opening[matched : matched + 1] == self._char:
                matched += 1
                if matched == len(opening):
                    yield from self._next_visible()
                    return
            else:
                matched = int(opening[:1] == self._char)
                if self._solid or not self._blank or not (matched or self._char.isspace()):
                    self._show(but=matched)
            yield from self._next()

    def _calls(self, form: CallFormat) -> _Reading:
        listed = form.listed and self._char == "["
        if listed:
            yield from self._next_visible()
        while True:
            yield from self._call()
            self._behind_call = True
            yield from self._to_visible()
            if form.closing:
                yield from self._closing(form.closing)
                return
            if listed and self._char == "]":
                yield from self._close()
                return
            if self._char == form.separator and (listed or not form.listed):
                yield from self._next_visible()
            elif form.listed:
                return
            if self._char != "{":
                return

    def _closing(self, closing: str) -> _Reading:
        """Read what ends a call; where another text stands, that is content."""
        for expected in closing[:-1]:
            if self._char != expected:
                return
            yield from self._next()
        if self._char == closing[-1]:
            yield from self._close()

    def _close(self) -> _Reading:
        self._forget()
        yield from self._next()

    def _call(self) -> _Reading:
        """Read a call. Raises _NotACall, before any of it is shown; what goes wrong later only ends it."""
        try:
            yield from self._object()
        except _NotACall:
            if not self._inside:
                raise
            self._end()
            self._hold()
        else:
            self._end()
            yield from self._next()

    def _object(self) -> _Reading:
        """Read the object of a call, except for its last brace."""
        name: str | None = None
        early: list[str] | None = None
        """Arguments that stand before the name."""
        self._expect("{")
        yield from self._next_visible()
        while self._char != "}":
            key = yield from self._string()
            yield from self._to_visible()
            self._expect(":")
            yield from self._next_visible()
            if key == "name" and name is None:
                name = yield from self._string()
                if name not in self._names:
                    raise _NotACall
                if early is not None:
                    self._begin(name, early)
            elif key in ("arguments", "parameters") and early is None and not self._inside:
                self._expect("{")
                if name is None:
                    early = []
                    yield from self._value(early)
                else:
                    self._begin(name)
                    yield from self._value(None)
            else:
                yield from self._value([])
            yield from self._to_visible()
            if self._char == ",":
                yield from self._next_visible()
            else:
                self._expect("}")
        if name is None:
            raise _NotACall
        if not self._inside:
            self._begin(name, ["{}"])

    def _value(self, into: list[str] | None) -> _Reading:
        """Read a JSON value, so far as it takes to find its end. into: gets its text; None: the client does."""
        depth = 0
        quoted = escaped = False
        while True:
            char = self._char
            if not quoted and depth == 0 and char in ",}]" + _BLANKS:
                return
            if into is None:
                self._show_argument(char)
            else:
                into.append(char)
            if escaped:
                escaped = False
            elif quoted:
                escaped, quoted = char == "\\", char != '"'
            elif char == '"':
                quoted = True
            elif char in "{[":
                depth += 1
            elif char in "}]":
                depth -= 1
            ended = depth == 0 and not quoted and char in '}]"'
            yield from self._next()
            if ended:
                return

    def _string(self) -> Generator[None, str, str]:
        self._expect('"')
        text: list[str] = []
        yield from self._value(text)
        try:
            return msgspec.json.decode("".join(text).encode(), type=str)
        except (*NOT_JSON, UnicodeEncodeError):
            raise _NotACall from None

    def _to_visible(self) -> _Reading:
        while self._char in _BLANKS:
            yield from self._next()

    def _next_visible(self) -> _Reading:
        yield from self._next()
        yield from self._to_visible()

    def _next(self) -> _Reading:
        self._char = yield
        if not self._inside:
            self._solid = self._solid or (bool(self._held) and not self._held[-1].isspace())
            self._held.append(self._char)

    def _expect(self, char: str) -> None:
        if self._char != char:
            raise _NotACall

    # What becomes of it.

    def _begin(self, name: str, arguments: Sequence[str] = ()) -> None:
        self._forget()
        self._inside = True
        self._pieces.append((self._count, name, list(arguments)))
        self._count += 1

    def _show_argument(self, char: str) -> None:
        if not self._pieces:
            self._pieces.append((self._count - 1, None, []))
        self._pieces[-1][2].append(char)

    def _end(self) -> None:
        self._inside = False
        self._blank = True
        self._over = self._count == self._most

    def _show(self, but: int = 0) -> None:
        """Show what is held as content, except for the last character (`but` is 1)."""
        shown = self._held[: len(self._held) - but]
        self._content.extend(shown)
        self._blank = self._blank and not shown
        del self._held[: len(shown)]
        self._solid = False

    def _forget(self) -> None:
        self._held.clear()
        self._solid = False

    def _hold(self) -> None:
        """Hold the newest character, which was read inside a call and does not belong to it."""
        self._held.append(self._char)


def call_id(prompt_ids: Sequence[int], seed: int, index: int) -> str:
    """The id of an answer's call number `index`: the same wherever the answer is written, another one in every turn."""
    asked = msgspec.msgpack.encode((prompt_ids, seed, index))
    number = int.from_bytes(hashlib.blake2b(asked, digest_size=8).digest())
    chars = []
    for _ in range(ID_CHARS):
        number, char = divmod(number, len(_ALPHABET))
        chars.append(_ALPHABET[char])
    return "".join(chars)
