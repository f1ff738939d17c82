"""Constraints over a vocabulary without a model; over a real one they are in `test_model_constraints`."""

from __future__ import annotations

import numpy as np
import pytest
from constraints import EOS, PIECES, VOCABULARY, takes

from pipesd_core.errors import InvalidRequest
from pipesd_core.llamacpp.constraint import Constraint, Grammar, Vocabulary, check

LIST = Grammar('start: "[" (NUMBER ("," NUMBER)*)? "]"\nNUMBER: /[0-9]{1,3}/', "thing")


def accepted(text: str, grammar: Grammar = LIST) -> Constraint:
    constraint = VOCABULARY.constraint(grammar)
    for byte in text.encode():
        constraint.accept(byte)
    return constraint


def test_every_token_that_the_text_may_go_on_with_is_allowed() -> None:
    """Also where there is one text only: the model chooses how to cut it."""
    abc = Grammar('start: "[[ab"', "thing")
    assert [PIECES[token] for token in VOCABULARY.constraint(abc).allowed()] == [b"[", b"[["]
    assert [PIECES[token] for token in accepted("[[", abc).allowed()] == [b"a", b"ab"]


def test_an_end_is_allowed_where_the_text_is_complete_and_nothing_after_it() -> None:
    constraint = accepted("[1,23")
    assert EOS not in constraint.allowed()
    constraint.accept(ord("]"))
    assert constraint.allowed().tolist() == [EOS]
    constraint.accept(EOS)
    assert constraint.allowed().tolist() == [EOS]


def test_every_end_of_several_is_allowed() -> None:
    vocabulary = Vocabulary([b"a", b"", b"", b"</s>"], [3, 1])
    constraint = vocabulary.constraint(Grammar('start: "a"', "thing"))
    constraint.accept(0)
    assert constraint.allowed().tolist() == [1, 3]


def test_what_no_text_shows_and_what_ends_a_text_is_never_a_part_of_it() -> None:
    vocabulary = Vocabulary([b"", b"<end>", b"<", b"x"], [1])
    assert vocabulary.constraint(Grammar("start: /(?s:.+)/", "thing")).allowed().tolist() == [2, 3]


def test_what_is_not_allowed_cannot_be_accepted() -> None:
    constraint = VOCABULARY.constraint(LIST)
    for token in (EOS, ord("1")):
        assert not constraint.accepts(token)
        with pytest.raises(InvalidRequest, match=f"thing does not allow token {token} here"):
            constraint.accept(token)
    for token in b"[1]":
        assert constraint.accepts(token)
    assert [constraint.accepts(token) for token in (ord("]"), EOS, ord("["), EOS)] == [False, True, False, True]
    with pytest.raises(InvalidRequest, match="thing"):
        VOCABULARY.constraint(LIST).accept(10**6)


def test_tokens_are_taken_back_over_an_end_too() -> None:
    rng = np.random.default_rng(3)
    constraint = VOCABULARY.constraint(LIST)
    masks: list[list[int]] = []
    tokens: list[int] = []
    for _ in range(400):
        allowed = constraint.allowed()
        masks.append(allowed.tolist())
        if (allowed.tolist() == [EOS] and tokens[-1:] == [EOS]) or rng.random() < 0.3:
            count = int(rng.integers(0, len(tokens) + 1))
            constraint.rollback(count)
            del tokens[len(tokens) - count :], masks[len(tokens) :]
        else:
            tokens.append(int(rng.choice(allowed)))
            constraint.accept(tokens[-1])
        fresh = VOCABULARY.constraint(LIST)
        for token, mask in zip(tokens, masks, strict=False):
            assert fresh.allowed().tolist() == mask
            fresh.accept(token)
        assert fresh.allowed().tolist() == constraint.allowed().tolist()
    with pytest.raises(ValueError, match="cannot be taken back"):
        constraint.rollback(len(tokens) + 1)


@pytest.mark.parametrize(
    ("lark", "match"),
    [
        ("start: other", "other"),
        ("start: %json {", "json"),
        ('start: %json {"type": "array", "x-guidance": {"nonsense": 1}}', "nonsense"),
        ("start: start", "no token of this model can go on"),
        ("start: /(?=a)/", "invalid regex"),
    ],
)
def test_what_cannot_be_held_to_is_refused_before_anything_is_written(lark: str, match: str) -> None:
    with pytest.raises(InvalidRequest, match=match) as error:
        VOCABULARY.constraint(Grammar(lark, "thing"))
    assert error.value.param == "thing"
    assert error.value.message.startswith("thing cannot be held to")
    assert len(error.value.message) < 400


def test_a_check_needs_no_vocabulary() -> None:
    check(LIST)
    with pytest.raises(InvalidRequest, match=r"thing cannot be held to: .*other"):
        check(Grammar("start: other", "thing"))


def test_a_dead_end_is_an_error_of_that_text_and_no_end_of_it() -> None:
    """llguidance's own mask has the end of a complete text then."""
    vocabulary = Vocabulary([b"a", b""], [1])
    constraint = vocabulary.constraint(Grammar('start: "ab"', "thing"))
    constraint.accept(0)
    with pytest.raises(InvalidRequest, match="no token of this model can go on with the text"):
        constraint.allowed()


def test_what_takes_too_much_to_find_out_is_an_error_of_that_text() -> None:
    many = " ".join(f'("k{n}" "v")?' for n in range(2500))
    constraint = VOCABULARY.constraint(Grammar(f'start: "[" {many} "]"', "thing"))
    with pytest.raises(InvalidRequest, match="thing cannot be held to any further: there are too many ways"):
        constraint.accept(ord("["))


def test_a_model_without_an_end_takes_no_grammar() -> None:
    with pytest.raises(InvalidRequest, match="no token that ends a text"):
        Vocabulary([b"a"], []).constraint(LIST)


def test_texts() -> None:
    assert takes(LIST, "[]")
    assert takes(LIST, "[1,234]")
    assert not takes(LIST, "[1234]")
    assert not takes(LIST, "[1")
