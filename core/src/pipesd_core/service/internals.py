"""Checks that private parts of a library are still in their place and have their signatures."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any


def moved(parts: Mapping[str, str | None], *, exact: bool = False) -> list[str]:
    """The faults of `parts`: those that are gone, or have another signature.

    Args:
        parts: "module:Class.function", and what its signature begins with, names only; None: it has none.
        exact: the signature is that and no more, as a function that is overridden must have it.
    """
    return [fault for where, wanted in parts.items() if (fault := _moved(where, wanted, exact)) is not None]


def faults(parts: Mapping[str, str | None], signatures: Mapping[str, str | None]) -> list[str]:
    """The faults of `parts` where these signatures are all there is; see `moved`."""
    found = []
    for where, wanted in parts.items():
        if where not in signatures:
            found.append(f"{where} is gone")
        elif (fault := _differs(where, signatures[where], wanted, exact=False)) is not None:
            found.append(fault)
    return found


def find(where: str) -> Any:
    """The part at "module:Class.function". Raises ImportError, AttributeError."""
    module, _, path = where.partition(":")
    found = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    return found


def _moved(where: str, wanted: str | None, exact: bool) -> str | None:
    try:
        found = find(where)
    except (ImportError, AttributeError) as error:
        return f"{where} is gone ({error})"
    if wanted is None:
        return None
    return _differs(where, ",".join(inspect.signature(found).parameters), wanted, exact)


def _differs(where: str, names: str | None, wanted: str | None, exact: bool) -> str | None:
    if wanted is None or (names is not None and (names == wanted if exact else names.startswith(wanted))):
        return None
    return f"{where} takes ({names}), expected ({wanted}{'' if exact else '...'})"
