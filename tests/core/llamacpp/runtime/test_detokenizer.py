from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipesd_core.llamacpp.runtime.detokenizer import Detokenizer

# Token ids of the tests: 0-255 are bytes, others stand for longer pieces.
PIECES = {300: b"", 301: b"abc", 302: b"caa", 303: "ü".encode(), 304: "日本".encode()}


def piece(token: int) -> bytes:
    return PIECES[token] if token in PIECES else bytes([token])


def run(tokens: list[int], stop: tuple[str, ...], cuts: set[int]) -> tuple[list[str], int, bool, int]:
    """Shown parts, tokens used, stopped, covered: with the tokens cut into steps before the indices `cuts`."""
    text, parts, used, stopped = Detokenizer(piece, stop), [], 0, False
    for i, token in enumerate(tokens):
        if i in cuts:
            parts.append(text.take())
            assert text.covered() <= i
        used, stopped = i + 1, text.push(token)
        if stopped:
            break
    text.finish()
    parts.append(text.take())
    return parts, used, stopped, text.covered()


tokens = st.lists(st.sampled_from([*b"aab\xc3\xbc\xe6\xff", *PIECES]), max_size=30)
stops = st.lists(st.sampled_from(["a", "ab", "aba", "bc", "caab", "ü", "本a", "\ufffd"]), max_size=3).map(tuple)


@given(tokens, stops, st.sets(st.integers(0, 30)))
def test_how_tokens_are_cut_into_steps_changes_nothing(
    tokens: list[int], stop: tuple[str, ...], cuts: set[int]
) -> None:
    parts, used, stopped, covered = run(tokens, stop, cuts)
    whole = run(tokens, stop, set())
    one_by_one = run(tokens, stop, set(range(30)))
    assert ("".join(parts), used, stopped, covered) == ("".join(whole[0]), *whole[1:])
    assert "".join(one_by_one[0]) == "".join(parts)
    assert covered == used


@given(tokens, stops)
def test_the_text_is_that_of_the_bytes_up_to_the_first_stop_string(tokens: list[int], stop: tuple[str, ...]) -> None:
    parts, used, stopped, _ = run(tokens, stop, set(range(30)))
    shown = "".join(parts)
    full = b"".join(map(piece, tokens[:used])).decode("utf-8", "replace")
    assert full.startswith(shown)
    assert not any(s in shown for s in stop)
    if not stop:
        assert shown == full
    if stopped:
        assert any(full[len(shown) :].startswith(s) for s in stop)


@given(tokens)
def test_covered_tokens_are_shown_in_full(tokens: list[int]) -> None:
    text = Detokenizer(piece, ("aba",))
    shown = ""
    for i, token in enumerate(tokens, 1):
        if text.push(token):
            return
        shown += text.take()
        assert text.covered() <= i
        complete = b"".join(map(piece, tokens[: text.covered()])).decode("utf-8", "ignore")
        assert shown.replace("\ufffd", "").startswith(complete)


def test_an_incomplete_character_is_held_back() -> None:
    text = Detokenizer(piece)
    first, second = "ü".encode()
    text.push(first)
    assert (text.take(), text.covered()) == ("", 0)
    text.push(second)
    assert (text.take(), text.covered()) == ("ü", 2)
    text.push(first)
    text.finish()
    assert (text.take(), text.covered()) == ("\ufffd", 3)


def test_the_beginning_of_a_stop_string_is_held_back() -> None:
    text = Detokenizer(piece, ("aab",))
    assert not text.push(ord("a"))
    assert not text.push(ord("a"))
    assert (text.take(), text.covered()) == ("", 0)
    assert not text.push(ord("a"))
    assert (text.take(), text.covered()) == ("a", 1)
    assert text.push(ord("b"))
    assert (text.take(), text.covered()) == ("", 4)


def test_special_tokens_show_nothing() -> None:
    text = Detokenizer(piece)
    text.push(300)
    assert (text.take(), text.covered()) == ("", 1)


def test_nothing_can_be_pushed_after_a_stop_string() -> None:
    text = Detokenizer(piece, ("a",))
    assert text.push(ord("a"))
    with pytest.raises(RuntimeError):
        text.push(ord("b"))


def test_the_stop_string_that_is_met_first_is_told() -> None:
    text = Detokenizer(piece, ("c", "ab", "x"))
    assert text.push(301)
    assert (text.take(), text.met) == ("", "ab")
    assert Detokenizer(piece, ("c",)).met is None
