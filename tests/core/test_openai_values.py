from __future__ import annotations

from typing import Any

import pytest

from pipesd_core.openai_values import is_number, same, show, whole, wrong


@pytest.mark.parametrize(
    ("value", "other", "equal"),
    [
        (1, 1.0, True), (True, 1, False), (False, 0, False), (0, False, False), (True, True, True), (None, None, True),
        (None, False, False), ("", None, False), ("a", "a", True), ([1, "a"], [1.0, "a"], True), ([True], [1], False),
        ([1], [1, 1], False), ([], {}, False), ({}, {}, True), ({"a": [1]}, {"a": [1.0]}, True), ([], False, False),
        ({"a": 1}, {"a": True}, False), ({"a": 1}, {"a": 1, "b": 1}, False), ({"a": 1}, {"b": 1}, False),
    ],
)  # fmt: skip
def test_same(value: Any, other: Any, equal: bool) -> None:
    assert same(value, other) is equal
    assert same(other, value) is equal


@pytest.mark.parametrize(
    ("value", "number"),
    [(4, 4), (4.0, 4), (-1.0, -1), (0.0, 0), (2**70, 2**70), (1e20, 10**20), (4.5, None), (True, None), ("4", None),
     (None, None), ([4], None)],
)  # fmt: skip
def test_whole_numbers(value: Any, number: int | None) -> None:
    assert whole(value) == number
    assert type(whole(value)) is type(number)


def test_numbers() -> None:
    assert [is_number(value) for value in (1, 1.5, True, "1", None)] == [True, True, False, False, False]


def test_refusals_say_what_was_given() -> None:
    assert str(wrong("a", "a string", 5)) == "a must be a string, but is 5"
    assert str(wrong("a.b", "a string", None)) == "a.b must be a string, but is missing"
    assert str(wrong("a[0]", "a string", None)) == "a[0] must be a string, but is null", "it is there"
    assert wrong("a[0]", "a string", None).param == "a[0]"
    assert len(show("x" * 1000)) == 80
