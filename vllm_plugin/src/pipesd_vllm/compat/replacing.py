"""Replacing a function of vLLM's by one of ours that calls it: once, however often a process is asked to."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

MARK: Final = "pipesd"
"""An attribute that our functions have, and vLLM's have not."""


def is_ours(function: Any) -> bool:
    """Whether a function is one that `replace_once` has put in the place of another."""
    return hasattr(function, MARK)


def replace_once(owner: Any, name: str, wrap: Callable[[Any], Callable[..., Any]]) -> bool:
    """Put `wrap(original)` in the place of the owner's function of that name.

    Args:
        owner: a module, a class or an object.
        wrap: makes our function of vLLM's; its name and signature stay what vLLM's are.

    Returns: False if ours is there already; then nothing is done.
    """
    original = getattr(owner, name)
    if is_ours(original):
        return False
    ours = functools.wraps(original)(wrap(original))
    setattr(ours, MARK, True)
    setattr(owner, name, ours)
    return True
