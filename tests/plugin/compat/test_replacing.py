"""A function of another program's is replaced once, and still looks like itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace

from pipesd_vllm.compat.replacing import is_ours, replace_once


def add(a: int, b: int = 2) -> int:
    return a + b


def twice(original: Callable[..., int]) -> Callable[..., int]:
    def ours(*args: int, **kwargs: int) -> int:
        return 2 * original(*args, **kwargs)

    return ours


def test_a_function_is_replaced_once() -> None:
    owner = SimpleNamespace(add=add)
    assert not is_ours(owner.add)
    assert replace_once(owner, "add", twice)
    assert is_ours(owner.add)
    assert owner.add(1) == 6
    assert not replace_once(owner, "add", twice)
    assert owner.add(1) == 6
    assert not is_ours(add)


def test_name_and_signature_stay() -> None:
    owner = SimpleNamespace(add=add)
    replace_once(owner, "add", twice)
    assert owner.add.__name__ == "add"
    assert inspect.signature(owner.add) == inspect.signature(add)
