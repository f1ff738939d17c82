"""JSON values of an OpenAI body: which are the same, which are whole numbers, and how a message shows one."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from pipesd_core.errors import InvalidRequest

_SHOWN: Final = 80


def same(value: Any, other: Any) -> bool:
    """Equality of JSON values, at any depth: 1.0 is 1, and true is not."""
    if isinstance(value, dict) and isinstance(other, dict):
        return value.keys() == other.keys() and all(same(value[key], other[key]) for key in other)
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(same, value, other))
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def is_number(value: Any) -> bool:
    """Whether a decoded value is a JSON number: true is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def whole(value: Any) -> int | None:
    """A decoded number without a fraction as an integer, since JSON has one kind of number: 4.0 is 4. Else None."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def wrong(param: str, wanted: str, value: Any) -> InvalidRequest:
    """The refusal of a value that is not what is `wanted`; None: there is none, or null, which means the same."""
    given = "is missing" if value is None and not param.endswith("]") else f"is {show(value)}"
    return InvalidRequest(f"{param} must be {wanted}, but {given}", param=param)


def show(value: Any) -> str:
    """A value as JSON, shortened for a message."""
    try:
        text = msgspec.json.encode(value).decode()
    except RecursionError:  # what could just be read cannot always be written
        return "nested too deeply"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
