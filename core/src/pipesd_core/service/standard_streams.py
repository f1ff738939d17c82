"""Standard input, output and error of a program, whatever they are: closed, full, unread, or of another encoding.

`prepare` comes first. Then output is written by `write` (or printed by a library) and errors by `complain`, and lines
are read by `read_line`; what cannot be done is one of the errors below. Python alone would end in a traceback, at its
very end some of them.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any, Final

from pipesd_core.errors import PipeSDError
from pipesd_core.text_encoding import NotUtf8, without_mark

MAX_LINE_BYTES: Final = 4 * 2**20
"""Longest line that is read: no request is larger."""

_NAMES: Final = ("stdin", "stdout", "stderr")
_replaced: list[io.TextIOWrapper] = []
"""Kept until the end: one that is freed closes what it shares with the one in its place."""


class OutputLost(PipeSDError):
    """Standard output takes nothing. unread: nobody reads it any more, which is no error of anybody's."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot write to standard output: {error.strerror}; send it elsewhere")
        self.unread = isinstance(error, BrokenPipeError)


class InputUnusable(PipeSDError):
    """Nothing can be read from standard input, now or later."""


class LineUnusable(PipeSDError):
    """A line of standard input is no text; the next one may be."""


def prepare() -> None:
    """Make all three usable. Harmless when repeated.

    One that is closed would be the next file or connection that is opened, into which libraries would then write. In
    its place comes one that cannot be read or written, so that only a program that needs it finds out.
    """
    for number, flags in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):  # of stderr nobody could be told
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, flags), True)
        if getattr(sys, _NAMES[number]) is None:
            setattr(sys, _NAMES[number], _text_file(number, "r" if number == 0 else "w"))
    if type(sys.stdout) is io.TextIOWrapper:  # not one of a test's
        _replaced.append(sys.stdout)
        sys.stdout = _Output(
            sys.stdout.buffer,
            encoding=sys.stdout.encoding,
            # An answer may hold what a terminal's encoding does not; it is shown escaped rather than not at all.
            errors="backslashreplace",
            line_buffering=sys.stdout.line_buffering,
            write_through=sys.stdout.write_through,
        )


class _Output(io.TextIOWrapper):
    """Standard output for whoever prints, argparse too, which takes no OSError for a reason to stop."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            _discard(self)
            raise OutputLost(error) from error

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            _discard(self)
            raise OutputLost(error) from error


def write(text: str, end: str = "\n") -> None:
    """Write to standard output at once. Raises OutputLost, the first time that it fails."""
    sys.stdout.write(text + end)
    sys.stdout.flush()


def complain(text: str) -> None:
    """Write a line to standard error, if that is possible."""
    try:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        _discard(sys.stderr)


def flush() -> None:
    """Write what Python still holds of both outputs. Raises OutputLost."""
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        _discard(sys.stderr)
    sys.stdout.flush()


def read_line() -> str | None:
    """The next line of standard input without its end; None: there is none. Raises InputUnusable, LineUnusable."""
    source: Any = getattr(sys.stdin, "buffer", None) or sys.stdin
    encoding = getattr(sys.stdin, "encoding", None) or "utf-8"
    try:
        line = source.readline(MAX_LINE_BYTES + 1)
    except (OSError, ValueError) as error:
        why = (isinstance(error, OSError) and error.strerror) or str(error)
        raise InputUnusable(
            f"cannot read standard input: {why}; type at a terminal, or send lines through a pipe"
        ) from error
    if len(line) > MAX_LINE_BYTES:
        raise InputUnusable(f"a line of standard input has more than {MAX_LINE_BYTES} bytes; is it text?")
    if not line:
        return None
    try:
        return str(without_mark(line).decode(encoding)).rstrip("\r\n")
    except NotUtf8 as error:
        raise InputUnusable(f"standard input is {error}; send UTF-8") from error
    except UnicodeDecodeError as error:
        raise LineUnusable(
            f"that line is not {encoding} text (its byte {error.start + 1} is 0x{line[error.start]:02x}) and was not "
            "sent; check the terminal's or the file's encoding, LANG and PYTHONIOENCODING"
        ) from error


def _text_file(number: int, mode: str) -> Any:
    """What Python makes of an open descriptor at its start."""
    return open(number, mode, encoding="utf-8", closefd=False)


def _discard(stream: Any) -> None:
    """Let what a stream still holds, and all that follows, go nowhere; Python would try it again at its end."""
    try:
        number = stream.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
    except (OSError, ValueError, AttributeError):  # no file of the system's, as in tests
        return
    os.dup2(null, number)
    os.close(null)
