"""Shared noise: the Gumbel noise that both ends draw for (seed, position, token).

Source: architecture §5. ``h`` is murmur3-32 over the four 32-bit words (seed low, seed high, position, token),
``u = (h + 0.5) / 2**32`` in float64 and ``G = -log(-log1p(-u))``. The same numbers come out of vLLM's V2 sampler,
which is why position is the index of the *input* token: the token at absolute index p uses ``position = p - 1``.

Everything here is exact integer arithmetic up to the two logarithms, so that an edge and a cloud on different
machines draw the same noise.
"""

from __future__ import annotations

import math
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

U32 = NDArray[np.uint32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Ints = TypeVar("Ints", int, I64)
"""A seed or position, or one for each row: int64 wraps, and its lower 32 bits stay right."""

_C1: Final = 0xCC9E2D51
_C2: Final = 0x1B873593
_MASK: Final = 0xFFFFFFFF
_LENGTH_BYTES: Final = 16
GUMBEL_MAX: Final = -math.log(-math.log1p(-(0.5 / 2**32)))
"""The largest noise that exists (about 22.87): bounds what any token can gain."""
GUMBEL_MIN: Final = -math.log(-math.log1p(-((_MASK + 0.5) / 2**32)))
"""The smallest noise that exists (about -3.13)."""


def _rotl(x: Ints, r: int) -> Ints:
    return ((x << r) | (x >> (32 - r))) & _MASK


def _mix_word(h: Ints | int, word: Ints) -> Ints:
    k = (word & _MASK) * _C1 & _MASK
    k = _rotl(k, 15) * _C2 & _MASK
    h = _rotl(h ^ k, 13)
    return (h * 5 + 0xE6546B64) & _MASK


def prefix(seed: Ints, position: Ints) -> Ints:
    """Hash state after the three words that are the same for every token of a position: 0 to 2**32 - 1."""
    h = _mix_word(0, seed)
    h = _mix_word(h, seed >> 32)
    return _mix_word(h, position)


def mix_tokens(n_vocab: int) -> U32:
    """The token word's own mixing, which does not depend on seed or position: done once per vocabulary.

    Returns: uint32 array of shape (n_vocab,), to pass to :func:`hashes`.
    """
    k = np.arange(n_vocab, dtype=np.uint32) * np.uint32(_C1)
    k = (k << np.uint32(15)) | (k >> np.uint32(17))
    return k * np.uint32(_C2)


def hashes(seed: int, position: int, mixed: U32) -> U32:
    """murmur3-32 of (seed, position, token) for many tokens.

    Args:
        seed: 64-bit integer (negative ones wrap as two's complement).
        position: absolute index of the input token.
        mixed: entries of :func:`mix_tokens` for the tokens wanted, shape (n,).

    Returns: uint32 array of shape (n,).
    """
    h = mixed ^ np.uint32(prefix(seed, position))
    h = (h << np.uint32(13)) | (h >> np.uint32(19))
    h *= np.uint32(5)
    h += np.uint32(0xE6546B64)
    h ^= np.uint32(_LENGTH_BYTES)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    return h


def gumbel(h: U32) -> F64:
    """Standard Gumbel noise of hashes, float64, same shape."""
    u: F64 = (h.astype(np.float64) + 0.5) / 2.0**32
    noise: F64 = -np.log(-np.log1p(-u))
    return noise


def hash_ceiling(noise: float) -> int:
    """The largest hash whose Gumbel noise can reach ``noise`` (it falls as the hash rises); -1 if none can.

    It lets a caller drop most tokens of a large vocabulary by an integer comparison, before any logarithm. One is
    added to the exact inverse so that rounding can only let a token too many pass, never one too few.
    """
    if noise > GUMBEL_MAX:
        return -1
    if noise < GUMBEL_MIN:
        return _MASK
    u = -math.expm1(-math.exp(-noise))
    return min(_MASK, math.floor(u * 2.0**32 - 0.5) + 1)
