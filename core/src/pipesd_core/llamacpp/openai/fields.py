"""The keys of a JSON object, taken one by one with their types checked, so that what is left over can be refused."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from pipesd_core.errors import InvalidRequest
from pipesd_core.openai_body import NOT_JSON

_LABELS: Final = ("user", "safety_identifier", "prompt_cache_key")
"""Strings that name the caller; they change nothing in an answer."""


def decode(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises InvalidRequest, and nothing else, whatever the bytes are."""
    try:
        value = msgspec.json.decode(body)
    except NOT_JSON as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidRequest(f"the body must be a JSON object, but is {show(value)}")
    return value


class Fields:
    """The keys of an object; null is "not given". Each `take` and its typed forms give a value once, None when absent.

    The typed forms raise InvalidRequest that names the key.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        self._left = {name: value for name, value in values.items() if value is not None}

    def take(self, name: str) -> Any:
        return self._left.pop(name, None)

    def integer(self, name: str) -> int | None:
        value = self.take(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise wrong(name, "an integer", value)
        return value

    def number(self, name: str) -> float | None:
        value = self.take(name)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise wrong(name, "a number", value)
        try:
            return float(value)
        except OverflowError:
            raise wrong(name, "a number", value) from None

    def boolean(self, name: str) -> bool:
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            raise wrong(name, "true or false", value)
        return bool(value)

    def string(self, name: str) -> str | None:
        value = self.take(name)
        if value is not None and not isinstance(value, str):
            raise wrong(name, "a string", value)
        return value

    def refuse_rest(self, neutral: dict[str, tuple[Any, ...]]) -> None:
        """Raise InvalidRequest for a key that was not taken, unless its value is one of those in `neutral`."""
        for label in _LABELS:
            self.string(label)
        metadata = self.take("metadata")
        if metadata is not None and not isinstance(metadata, dict):
            raise wrong("metadata", "an object", metadata)
        for name, value in self._left.items():
            if name not in neutral:
                raise InvalidRequest(f"unknown or unsupported parameter: {name[:64]!r}; leave it out", param=name[:64])
            if not any(same(value, harmless) for harmless in neutral[name]):
                allowed = " or ".join(show(harmless) for harmless in neutral[name])
                raise InvalidRequest(
                    f"{name} is not supported by this engine: leave it out or give {allowed}, not {show(value)}",
                    param=name,
                )


def same(value: Any, other: Any) -> bool:
    """Equality of JSON values: true is not 1."""
    if isinstance(value, dict) and isinstance(other, dict):
        return value.keys() == other.keys() and all(same(value[key], other[key]) for key in other)
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def wrong(param: str, wanted: str, value: Any) -> InvalidRequest:
    """The refusal of a value that is not what is `wanted`."""
    given = "is missing" if value is None else f"is {show(value)}"
    return InvalidRequest(f"{param} must be {wanted}, but {given}", param=param)


def show(value: Any) -> str:
    """A value as JSON, shortened for a message."""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else text[:77] + "..."
