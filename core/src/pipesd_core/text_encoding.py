"""Text as other programs save and send it: UTF-8, perhaps with a byte order mark, its lines ended in any usual way.

Windows' editors put the mark in front of a file and end lines with CRLF; some of them, and PowerShell's `>`, write
UTF-16. The mark is dropped, and what is no UTF-8 is refused by its name: taken as it is, a key with a mark in front is
simply another key.
"""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Final

from pipesd_core.errors import ConfigError

MAX_FILE_BYTES: Final = 2**20
"""Largest text file that a program reads at its start."""

_OTHERS: Final = (
    (codecs.BOM_UTF32_LE, "UTF-32"),  # begins as UTF-16's does
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


class NotUtf8(ValueError):
    """Bytes that are no UTF-8 text; the message says what they are, and goes on after "X is"."""


def without_mark(data: bytes) -> bytes:
    """The bytes without a byte order mark. Raises NotUtf8 for the mark of another encoding."""
    for mark, name in _OTHERS:
        if data.startswith(mark):
            raise NotUtf8(f"{name} text")
    return data.removeprefix(codecs.BOM_UTF8)


def decode_text(data: bytes) -> str:
    """The text in some bytes, each line ended with "\\n". Raises NotUtf8."""
    data = without_mark(data)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise NotUtf8(f"not UTF-8 text: its byte {error.start + 1} is 0x{data[error.start]:02x}") from None
    if "\0" in text:  # as in every UTF-16 text of a western language that has no mark
        raise NotUtf8("not UTF-8 text: it has NUL bytes, as UTF-16 has")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_text(file: Path, what: str) -> str:
    """The text of a file, see `decode_text`. what: names the kind of the file in errors. Raises ConfigError."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the {what} {file}: {error.strerror}") from error
    except ValueError as error:  # a path with a NUL
        raise ConfigError(f"cannot read the {what} {str(file)!r}: {error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"the {what} {file} has more than {MAX_FILE_BYTES} bytes; is it another file?")
    try:
        return decode_text(data)
    except NotUtf8 as error:
        raise ConfigError(f"the {what} {file} is {error}; save it as UTF-8") from error
