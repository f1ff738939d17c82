"""Types of command-line flags, for argparse: stricter than Python's own, with errors that say what is wanted.

`int` takes the digits of every script, "1_000" and " 7 ", `float` takes "nan" and "1e999", `Path` takes "" for the
working folder. The environment and the file take none of these, so flags do not either.
"""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path
from typing import Final

_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def strict(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser, whose flags of type int, float, Path and none are read by the functions below from now on."""
    for kind, function in {int: integer, float: number, Path: path, None: text}.items():
        parser.register("type", kind, function)
    return parser


def integer(value: str) -> int:
    """A whole number of at most 18 digits."""
    if _INTEGER.fullmatch(value) is None:
        raise _wrong("a whole number", value)
    return int(value)


def number(value: str) -> float:
    """A finite number."""
    if _NUMBER.fullmatch(value) is None or not math.isfinite(float(value)):
        raise _wrong("a number", value)
    return float(value)


def text(value: str) -> str:
    """Text that can be sent and shown: what a shell passes on may be no text at all."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _wrong("UTF-8 text", value) from None
    return value


def path(value: str) -> Path:
    """The path of a file or folder, which need not be text."""
    if not value:
        raise argparse.ArgumentTypeError("must be a path, but is empty; leave the flag out to have none")
    return Path(value)


def _wrong(wanted: str, value: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"must be {wanted}, but is {value[:64]!r}")
