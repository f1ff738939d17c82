"""Tokens that keep a text valid UTF-8: llama.cpp's grammars take a code point in whatever bytes it comes."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

_SECOND: Final = {0xE0: (0xA0, 0xBF), 0xED: (0x80, 0x9F), 0xF0: (0x90, 0xBF), 0xF4: (0x80, 0x8F)}
"""Second bytes of characters with such a first byte; others are longer than need be, surrogates, or beyond Unicode."""


class Writable:
    """The tokens of one vocabulary whose bytes can be a part of valid UTF-8 text.

    Args:
        pieces: bytes of each id; empty for those that no text shows.
        eog_ids: they end a text.
    """

    def __init__(self, pieces: Sequence[bytes], eog_ids: Sequence[int]) -> None:
        self._fits = np.array([_fits(piece) for piece in pieces])
        self._fits[list(eog_ids)] = True
        self._first = np.array([piece[0] if piece else 0 for piece in pieces], dtype=np.uint8)
        self.last = np.array([piece[-1] if piece else 0 for piece in pieces], dtype=np.uint8)
        """The last byte of each token."""

    def after(self, byte: int, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Mask (n,) of the ids (n,) that may follow a text that ends in `byte`; no byte before that is considered."""
        fits: NDArray[np.bool_] = self._fits[ids]
        if byte in _SECOND:
            low, high = _SECOND[byte]
            first = self._first[ids]
            fits = fits & (first >= low) & (first <= high)
        return fits


def _fits(piece: bytes) -> bool:
    """Whether bytes are valid but for the rest of a character at their beginning and the start of one at their end."""
    begin = 0
    while begin < min(3, len(piece)) and 0x80 <= piece[begin] <= 0xBF:
        begin += 1
    try:
        codecs.getincrementaldecoder("utf-8")().decode(piece[begin:])
    except UnicodeDecodeError:
        return False
    return bool(piece)
