"""The form of an answer, as the drafter holds to it: over a vocabulary without a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from constraints import EOS, PIECES, VOCABULARY

from pipesd_agent.drafting.answer_constraint import AnswerConstraint
from pipesd_agent.drafting.drafter import AnswerForm

N = len(PIECES)
PROMPT = [1, 2, 3]
SCHEMA = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}
FORM = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}


def constraint(form: Any = FORM) -> AnswerConstraint:
    return AnswerConstraint(VOCABULARY, AnswerForm(form, len(PROMPT)))


def path(text: str) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.array([*PROMPT, *text.encode()], np.int32)


def allowed(state: AnswerConstraint, text: str) -> set[bytes] | None:
    ids = state.allowed(path(text), N)
    return None if ids is None else {PIECES[token] for token in ids}


def test_what_the_form_does_not_allow_is_left_out() -> None:
    state = constraint()
    assert allowed(state, "") == {b"{", b'{"'}
    assert allowed(state, '{"a":"') == {b"x", b"y"}
    ends = state.allowed(path('{"a":"y"}'), N)
    assert ends is not None
    assert ends.tolist() == [EOS]


def test_a_path_that_is_cut_and_goes_on_otherwise() -> None:
    state = constraint()
    assert allowed(state, '{"a":"x') == {b'"', b'"}'}
    state.truncate(len(path('{"a":')))
    assert b" 1" not in (allowed(state, '{"a": ') or ())
    assert allowed(state, '{"a": "y') == {b'"', b'"}'}
    state.truncate(len(path('{"a": "y')))
    assert allowed(state, '{"a": "y') == {b'"', b'"}'}
    state.truncate(1)
    assert state.allowed(path("")[:1], N) is None
    assert allowed(state, "") == {b"{", b'{"'}


def test_a_path_that_does_not_follow_the_form_is_free_until_it_is_cut() -> None:
    state = constraint()
    assert allowed(state, '{"') == {b"a"}
    assert allowed(state, '{"bc') is None
    state.truncate(len(path('{"b')))
    assert allowed(state, '{"b') is None
    state.truncate(len(path('{"')))
    assert allowed(state, '{"a":"y') == {b'"', b'"}'}


@pytest.mark.parametrize(
    "form",
    [
        {"type": "text"},
        {"type": "json_schema", "json_schema": {"schema": {"not": {}}}},
        {"type": "json_schema", "json_schema": {"schema": {"type": "integer", "minimum": 3, "maximum": 1}}},
        {"type": "structural_tag"},
        "json",
        7,
    ],
)
def test_a_form_that_is_none_leaves_nothing_out(form: Any) -> None:
    assert constraint(form).allowed(path(""), N) is None


def test_ids_that_are_never_drafted_are_no_choice() -> None:
    brace = PIECES.index(b"{")
    state = constraint()
    ids = state.allowed(path(""), brace + 1)
    assert ids is not None
    assert ids.tolist() == [brace]
    assert state.allowed(path(""), brace) is None
