"""Texts by constraints: over a small vocabulary without a model, or any other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from pipesd_core.llamacpp.constraint import Constraint, Grammar, Vocabulary

EOS: Final = 256
PIECES: Final = [
    *(bytes([byte]) for byte in range(256)),
    b"",
    *(b'"', b'{"', b'":', b'", "', b"\\u00", b"},", b'"}', b" 1", b"[[", b"ab", b"\n  ", "é".encode(), b"\xe2\x82"),
]
"""Every byte, an end, and tokens of several bytes; one is a part of a character, one there twice."""
VOCABULARY: Final = Vocabulary(PIECES, [EOS])


def takes(grammar: Grammar, text: str) -> bool:
    """Whether a text is complete in a grammar; written byte by byte, and in the longest tokens."""
    results = set()
    for longest in (1, 99):
        constraint, left = VOCABULARY.constraint(grammar), text.encode()
        while left:
            fitting = [
                t for t, piece in enumerate(PIECES) if piece and left.startswith(piece) and len(piece) <= longest
            ]
            token = max(fitting, key=lambda token: len(PIECES[token]))
            if token not in constraint.allowed():
                results.add(False)
                break
            constraint.accept(token)
            left = left[len(PIECES[token]) :]
        else:
            results.add(EOS in constraint.allowed())
    (result,) = results
    return result


def drawn(
    constraint: Constraint, pieces: Sequence[bytes], eog_ids: Sequence[int], rng: np.random.Generator, tokens: int
) -> str | None:
    """A text of random tokens among the allowed ones; None if it is not complete after so many.

    Ends are taken as soon as they are allowed, as a rule, and short tokens preferred.
    """
    written = b""
    for _ in range(tokens):
        allowed = constraint.allowed()
        ends = np.intersect1d(allowed, eog_ids)
        if len(ends) and rng.random() < 0.7:
            return written.decode()
        inner = np.setdiff1d(allowed, eog_ids)
        if not len(inner):
            return written.decode()
        few = rng.choice(inner, min(len(inner), 4))
        token = int(min(few, key=lambda token: (len(pieces[token]), token)) if rng.random() < 0.5 else few[0])
        constraint.accept(token)
        written += pieces[token]
    return None
