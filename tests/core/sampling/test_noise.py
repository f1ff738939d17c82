"""The shared noise against murmur3 written a second time, byte by byte as its author published it."""

from __future__ import annotations

import math
import struct

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given

from pipesd_core.sampling import noise

SEEDS = [0, 1, 42, -1, 2**32, 2**63 - 1, -(2**63), 0x0123456789ABCDEF]
HASHES = st.integers(0, 2**32 - 1)


def murmur3_32(data: bytes, seed: int = 0) -> int:
    """MurmurHash3_x86_32 for data of whole 4-byte blocks, plus the tail of the published test vectors."""
    mask = 0xFFFFFFFF

    def rotate(x: int, r: int) -> int:
        return (x << r | x >> 32 - r) & mask

    def scramble(k: int) -> int:
        return rotate(k * 0xCC9E2D51 & mask, 15) * 0x1B873593 & mask

    h = seed
    whole = len(data) // 4 * 4
    for (k,) in struct.iter_unpack("<I", data[:whole]):
        h = (rotate(h ^ scramble(k), 13) * 5 + 0xE6546B64) & mask
    if data[whole:]:
        h ^= scramble(int.from_bytes(data[whole:], "little"))
    h ^= len(data)
    h = (h ^ h >> 16) * 0x85EBCA6B & mask
    h = (h ^ h >> 13) * 0xC2B2AE35 & mask
    return h ^ h >> 16


def scalar_hash(seed: int, position: int, token: int) -> int:
    return murmur3_32(struct.pack("<QII", seed % 2**64, position, token))


def hash_of(seed: int, position: int, token: int) -> int:
    return int(noise.hashes(seed, position, noise.mix_tokens(token + 1)[token:])[0])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"test", 0xBA6BD213),
        (b"Hello, world!", 0xC0363E43),
        (b"The quick brown fox jumps over the lazy dog", 0x2E4FF723),
    ],
)
def test_the_reference_implementation_is_murmur3(data: bytes, expected: int) -> None:
    assert murmur3_32(data) == expected


@pytest.mark.parametrize(
    ("seed", "position", "token", "expected"),
    [
        (0, 0, 0, 0x8134CDF8),
        (42, 7, 1234, 0xBD758A2D),
        (-1, 65535, 151_935, 0x05EAD4CA),
        (2**63 - 1, 2**32 - 1, 0, 0xF7A4B840),
    ],
)
def test_known_answers(seed: int, position: int, token: int, expected: int) -> None:
    """Fixed for ever: an edge and a cloud of different versions must draw the same noise."""
    assert hash_of(seed, position, token) == expected


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2000))
def test_hashes_are_murmur3_of_the_four_words(seed: int, position: int, token: int) -> None:
    assert hash_of(seed, position, token) == scalar_hash(seed, position, token)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_token_of_a_large_vocabulary(seed: int) -> None:
    mixed = noise.mix_tokens(151_936)
    before = mixed.copy()
    h = noise.hashes(seed, 511, mixed)
    assert h.dtype == np.uint32
    for token in (0, 1, 2, 65_535, 65_536, 151_935):
        assert h[token] == scalar_hash(seed, 511, token)
    assert np.array_equal(mixed, before), "the vocabulary's own mixing is shared and must not change"


def test_negative_seeds_wrap_and_both_halves_of_a_seed_count() -> None:
    mixed = noise.mix_tokens(100)
    assert np.array_equal(noise.hashes(-1, 3, mixed), noise.hashes(2**64 - 1, 3, mixed))
    assert not np.array_equal(noise.hashes(5, 3, mixed), noise.hashes(5 + 2**32, 3, mixed))
    assert not np.array_equal(noise.hashes(5, 3, mixed), noise.hashes(5, 4, mixed))


def test_no_two_tokens_of_a_position_share_a_hash() -> None:
    """murmur3 of one word is a bijection, so ties of the perturbed scores come from the logits alone."""
    assert len(np.unique(noise.hashes(9, 9, noise.mix_tokens(200_000)))) == 200_000


def test_noise_is_finite_at_both_ends() -> None:
    ends = noise.gumbel(np.array([0, 2**32 - 1], dtype=np.uint32))
    assert np.isfinite(ends).all()
    assert ends.tolist() == pytest.approx([22.87386, -3.12999], abs=1e-5)
    assert ends.tolist() == pytest.approx([noise.GUMBEL_MAX, noise.GUMBEL_MIN], rel=1e-15)


def test_noise_is_the_published_formula() -> None:
    for h in (0, 1, 2**31, 2**32 - 1):
        u = (h + 0.5) / 2**32
        assert noise.gumbel(np.array([h], dtype=np.uint32))[0] == pytest.approx(-math.log(-math.log(1 - u)), abs=1e-7)


def test_noise_is_standard_gumbel() -> None:
    draws = noise.gumbel(noise.hashes(3, 1, noise.mix_tokens(200_000)))
    assert draws.mean() == pytest.approx(0.5772, abs=0.01)
    assert draws.var() == pytest.approx(math.pi**2 / 6, abs=0.03)


def gumbel_of(h: int) -> float:
    return float(noise.gumbel(np.array([h], dtype=np.uint32))[0])


@given(HASHES)
@example(0)
@example(1)
@example(2**32 - 1)
def test_a_hash_is_never_above_the_ceiling_of_its_own_noise(h: int) -> None:
    ceiling = noise.hash_ceiling(gumbel_of(h))
    assert h <= ceiling <= h + 2


@given(st.floats(-5, 25))
@example(noise.GUMBEL_MAX)
@example(noise.GUMBEL_MIN)
def test_the_ceiling_parts_the_hashes_that_reach_the_noise_from_the_others(wanted: float) -> None:
    ceiling = noise.hash_ceiling(wanted)
    assert -1 <= ceiling <= 2**32 - 1
    if ceiling < 2**32 - 1:
        assert gumbel_of(ceiling + 1) < wanted, "a hash above the ceiling reaches the noise"
    if ceiling >= 2:
        assert gumbel_of(ceiling - 2) >= wanted, "the ceiling is looser than two hashes"


@pytest.mark.parametrize(("wanted", "ceiling"), [(math.inf, -1), (23.0, -1), (-3.2, 2**32 - 1), (-math.inf, 2**32 - 1)])
def test_the_ceiling_of_noise_that_none_or_all_reach(wanted: float, ceiling: int) -> None:
    assert noise.hash_ceiling(wanted) == ceiling
