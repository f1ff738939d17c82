from __future__ import annotations

import json
import re

import numpy as np
import pytest
from constraints import EOS, PIECES, VOCABULARY, drawn, takes
from hypothesis import given
from hypothesis import strategies as st

from pipesd_core.errors import InvalidRequest
from pipesd_core.llamacpp.constraint import Grammar
from pipesd_core.llamacpp.openai.json_patterns import anything_but, checked_pattern
from pipesd_core.llamacpp.openai.json_schema import grammar_of

# Of Python's `re`, about what it may read otherwise one day; here is no doubt.
pytestmark = pytest.mark.filterwarnings("ignore:Possible :FutureWarning")


def grammar(pattern: str) -> Grammar:
    return grammar_of({"type": "string", "pattern": pattern}, "x")


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("", ["", "x"], []),
        ("b", ["b", "abc"], ["", "a"]),
        ("^a|b$", ["a", "ax", "xb"], ["xa", "bx"]),
        (r"^\d{2,3}$", ["12", "123"], ["1", "1234", "١٢"]),
        (r"^\d{2}$", ["12"], ["1", "123"]),
        (r"^\d{2,}?$", ["12", "12345"], ["1"]),
        (r"^(?:a|(?<n>b)|(?P<m>c))+$", ["a", "cab"], ["", "d"]),
        # Where dialects differ: what all of them take.
        (r"^\D$", ["x", "é"], ["1", "١"]),
        (r"^\w$", ["x", "_"], ["é", "-"]),
        (r"^\W$", ["-", "€"], ["x", "é", "²", "١", "Ⓐ"]),
        (r"^\s$", [" ", "\t"], ["\u00a0", "\ufeff", "\x1c", "x"]),
        (r"^\S$", ["x", "é"], [" ", "\u00a0", "\ufeff", "\x1c", "\x85"]),
        ("^.$", ["x", "é", "\x85"], ["\n", "\r", "\u2028", "\u2029"]),
        (r"^[\d\s-]$", ["1", " ", "-"], ["١", "\u00a0"]),
        (r"^[^\d\s]$", ["x"], ["1", "١", "\u00a0", "\ufeff"]),
        (r"^[^\W\d]$", ["x", "_"], ["1", "é", "-"]),
        (r"^[\D1]$", ["1", "x"], ["2", "١"]),
        ("^[+--b]$", ["+", ",", "-", "b"], []),
        ("^[a-c&&b]$", ["a", "b", "&"], ["d"]),
        ("^[[:alpha:]]$", ["a]", ":]", "[]"], ["b", "a"]),
        ("^[a~~b^]$", ["a", "~", "b", "^"], ["c"]),
        (r"^\<\>\-\/#$", ["<>-/#"], [">"]),
        (r"^[\]\\\-^-]$", ["]", "\\", "-", "^"], ["a"]),
        (r"^\x41\u00e9\t\v\f$", ["Aé\t\v\f"], []),
        (r"^[\x00-\x1f]$", ["\x00", "\n"], [" "]),
        ("]}", ["]}"], ["]"]),
    ],
)
def test_what_a_pattern_takes(pattern: str, good: list[str], bad: list[str]) -> None:
    assert [text for text in good if not takes(grammar(pattern), json.dumps(text, ensure_ascii=False))] == []
    assert [text for text in bad if takes(grammar(pattern), json.dumps(text, ensure_ascii=False))] == []
    for text in good:
        assert re.search(pattern.replace("(?<", "(?P<"), text)


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("(?=a)b", "group"), ("(?<!a)b", "group"), ("(?i)a", "group"), ("(?>a)", "group"), ("(?#x)", "group"),
        (r"\bx", r"escape \\b"), (r"\1", "escape"), (r"\cA", "escape"), (r"\p{L}", "escape"), (r"\Z", "escape"),
        (r"\0", "escape"), (r"\ud83d", "escape"), (r"\xg", "escape"), ("a\\", "escape"), (r"[\b]", "escape"),
        ("a**", "quantifier"), ("a*+", "quantifier"), ("+a", "quantifier"), ("(*a)", "quantifier"),
        ("x{", "quantifier"), ("a{,3}", "quantifier"),
        ("^*", "quantifier"), ("a{1001}", "more than 1000"), ("a{1,99999}", "more than 1000"),
        ("[]", "empty class"), ("[^]a]", "empty class"), ("[a", "without an end"), ("[b-a]", "range"),
        (r"[a-\d]", "range"),
    ],
)  # fmt: skip
def test_what_dialects_read_differently_is_refused(pattern: str, what: str) -> None:
    with pytest.raises(InvalidRequest, match=what) as error:
        checked_pattern(pattern, "here.pattern")
    assert error.value.param == "here.pattern"
    assert error.value.message.startswith(f"here.pattern is {json.dumps(pattern)}: ")


@given(st.text(max_size=8), st.integers(0, 99))
def test_whatever_is_taken_means_the_same_to_python(pattern: str, seed: int) -> None:
    pattern = re.sub("[a-z]", lambda found: r"\.^$*+?()[]{}|-&dswDSW1,~:a"[ord(found[0]) - 97], pattern)
    try:
        constraint = VOCABULARY.constraint(grammar(pattern))
    except InvalidRequest:
        return
    text = drawn(constraint, PIECES, [EOS], np.random.default_rng(seed), 60)
    if text is not None:
        assert re.search(pattern, json.loads(text))
        assert re.search(pattern, json.loads(text), re.ASCII)


@given(st.lists(st.text("ab\\é", max_size=3), max_size=4), st.text("ab\\éc", max_size=4))
def test_anything_but_some_names(names: list[str], text: str) -> None:
    pattern = anything_but(names, "here")
    assert (re.search(re.sub(r"\\x\{(\w+)\}", lambda found: rf"\u{int(found[1], 16):04x}", pattern), text) is None) == (
        text in names
    )


def test_names_may_take_too_much() -> None:
    with pytest.raises(InvalidRequest, match="such long names") as error:
        anything_but(["a" * 1000], "here")
    assert error.value.param == "here"
