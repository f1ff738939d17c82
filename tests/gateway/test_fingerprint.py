"""Vocabulary fingerprints: equal iff the vocabularies are."""

from __future__ import annotations

import pytest

from pipesd_gateway.fingerprint import fingerprint

PIECES = [(0, b"<s>", True), (1, b"a", False), (2, b"", False), (3, "é".encode(), False)]


def test_sixteen_bytes_that_stay_the_same() -> None:
    assert fingerprint(PIECES) == fingerprint(iter(PIECES)) == bytes.fromhex("3d7607c74b0b65e97f17cf2c363b0dfb")


@pytest.mark.parametrize(
    "other",
    [
        PIECES[:-1],
        [*PIECES, (4, b"", False)],
        [(0, b"<s>", False), *PIECES[1:]],
        [(0, b"<S>", True), *PIECES[1:]],
        [*PIECES[:3], (4, "é".encode(), False)],
        [PIECES[0], (1, b"", False), (2, b"a", False), PIECES[3]],
        [],
    ],
)
def test_any_difference_shows(other: list[tuple[int, bytes, bool]]) -> None:
    assert fingerprint(other) != fingerprint(PIECES)


def test_bytes_cannot_move_from_one_piece_to_the_next() -> None:
    tail = (2).to_bytes(4, "little") + (1).to_bytes(4, "little") + b"\0"
    assert fingerprint([(1, b"a" + tail + b"b", False)]) != fingerprint([(1, b"a", False), (2, b"b", False)])
