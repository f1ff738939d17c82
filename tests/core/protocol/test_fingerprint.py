"""Vocabulary fingerprints: equal iff the vocabularies are."""

from __future__ import annotations

import pytest

from pipesd_core.protocol.fingerprint import fingerprint

PIECES = [(0, b"<s>"), (1, b"a"), (2, b""), (3, "é".encode())]


def test_sixteen_bytes_that_stay_the_same() -> None:
    assert fingerprint(PIECES) == fingerprint(iter(PIECES)) == bytes.fromhex("bca9c64949da1e909281f0ac0fd4c7e1")


@pytest.mark.parametrize(
    "other",
    [
        PIECES[:-1],
        [*PIECES, (4, b"")],
        [(0, b"<S>"), *PIECES[1:]],
        [*PIECES[:3], (4, "é".encode())],
        [PIECES[0], (1, b""), (2, b"a"), PIECES[3]],
        [],
    ],
)
def test_any_difference_shows(other: list[tuple[int, bytes]]) -> None:
    assert fingerprint(other) != fingerprint(PIECES)


def test_bytes_cannot_move_from_one_piece_to_the_next() -> None:
    tail = (2).to_bytes(4, "little") + (1).to_bytes(4, "little")
    assert fingerprint([(1, b"a" + tail + b"b")]) != fingerprint([(1, b"a"), (2, b"b")])
