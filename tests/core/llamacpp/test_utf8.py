from __future__ import annotations

import numpy as np
import pytest

from pipesd_core.llamacpp.utf8 import Writable

PIECES = [b"a", "ü".encode(), b"\xc3", b"\xbc", b"\xc0\xa2", b"\xe0", b"\xe0\x80", b"\xff", b"", b"\x80\x80b", b"<eos>"]
EOS = 10
IDS = np.arange(len(PIECES))


@pytest.fixture(scope="module")
def writable() -> Writable:
    pieces = list(PIECES)
    pieces[EOS] = b""
    return Writable(pieces, [EOS])


def test_only_what_can_be_a_part_of_utf8(writable: Writable) -> None:
    assert [PIECES[i] for i in IDS[~writable.after(0, IDS)]] == [b"\xc0\xa2", b"\xe0\x80", b"\xff", b""]


def test_what_may_follow_the_first_byte_of_a_character(writable: Writable) -> None:
    assert [PIECES[i] for i in IDS[writable.after(0xE0, IDS)]] == [b"\xbc"]
    assert [PIECES[i] for i in IDS[writable.after(0xED, IDS)]] == [b"\x80\x80b"]
    assert writable.after(0xC3, IDS).tolist() == writable.after(0, IDS).tolist()
    assert writable.last[:2].tolist() == [97, 0xBC]


@pytest.mark.parametrize("text", ["aü€😀\U0010ffff\ud7ff\ue000", "\u0800\u07ff\U00010000"])
def test_every_way_to_cut_a_text_is_possible(text: str) -> None:
    raw = text.encode()
    pieces = [raw[i:j] for i in range(len(raw)) for j in range(i + 1, len(raw) + 1)]
    writable = Writable(pieces, [])
    assert writable.after(0, np.arange(len(pieces))).all()
    for cut in range(1, len(raw)):
        rest = np.array([pieces.index(raw[cut:])])
        assert writable.after(raw[cut - 1], rest).all()


def test_no_sequence_of_bytes_is_let_through_that_is_no_utf8() -> None:
    """Three bytes one by one: where a decoder refuses, so do we, or llama.cpp as it is no character at all."""
    writable = Writable([bytes([byte]) for byte in range(256)], [])
    ids = np.arange(256)
    for first in (0xE0, 0xED, 0xE1, 0xF0, 0xF4):
        follow = writable.after(first, ids)
        for second in range(0x80, 0xC0):
            tail = b"\x80" if first < 0xF0 else b"\x80\x80"
            try:
                bytes([first, second, *tail]).decode()
                valid = True
            except UnicodeDecodeError:
                valid = False
            assert follow[second] == valid
