"""The keys of a JSON object, taken one by one with their types checked, so that what is left over can be refused."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from pipesd_core.errors import InvalidRequest
from pipesd_core.openai_body import NOT_JSON
from pipesd_core.openai_parameters import MAX_NAME_CHARS
from pipesd_core.openai_values import is_number, same, show, whole, wrong


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
        if value is None:
            return None
        if (number := whole(value)) is None:
            raise wrong(name, "an integer", value)
        return number

    def number(self, name: str) -> float | None:
        value = self.take(name)
        if value is None:
            return None
        if not is_number(value):
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

    def rest(self) -> dict[str, Any]:
        """The keys that were not taken, with their values."""
        return self._left

    def refuse_rest(self, neutral: Mapping[str, tuple[Any, ...]] = MappingProxyType({})) -> None:
        """Raise InvalidRequest for a key that was not taken, unless its value is one of those in `neutral`."""
        for name, value in self._left.items():
            shown = name[:MAX_NAME_CHARS]
            if name not in neutral:
                raise InvalidRequest(f"{shown} is nothing that this server knows; leave it out", param=shown)
            if not any(same(value, harmless) for harmless in neutral[name]):
                allowed = " or ".join(show(harmless) for harmless in neutral[name])
                raise InvalidRequest(
                    f"{name} is not served here: leave it out or give {allowed}, not {show(value)}", param=name
                )
