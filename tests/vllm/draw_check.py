"""Run under .venv-vllm's python by test_vllm_draw.py: the tokens of torch are those of numpy's Sampler."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from pipesd_core.sampling import noise
from pipesd_core.sampling.params import SamplingParams
from pipesd_core.sampling.sampler import Sampler
from pipesd_core.sampling.torch_noise import Draw

SEEDS = (0, 1, -1, 2**32, 2**63 - 1, -(2**63))
ROUNDS = {12: 60, 4096: 30, 151936: 2}
"""How often each kind of logits is drawn from, for each size of vocabulary."""
ROWS = 17


def kinds(rng: np.random.Generator, n_vocab: int) -> dict[str, NDArray[np.float32]]:
    """Rows (ROWS, n_vocab) of many shapes: flat, peaked, tied, far from 0, masked down to a single token."""
    normal = rng.normal(size=(ROWS, n_vocab))
    masked = np.where(normal >= np.sort(normal, axis=1)[:, -min(n_vocab, 9), None], normal, -np.inf)
    single = np.where(normal == normal.max(axis=1, keepdims=True), normal, -np.inf)
    shapes = {
        "flat": normal * 0,
        "usual": normal * 3,
        "peaked": normal * 100,
        "tied": np.round(normal),
        "far": normal * 1e4 - 3e5,
        "masked": masked,
        "single": single,
        "half masked": np.where(rng.random(normal.shape) < 0.5, -np.inf, normal * 3),
    }
    shapes["half masked"][:, 0] = 0  # never a row of nothing
    return {name: shape.astype(np.float32) for name, shape in shapes.items()}


def check(draw: Draw, sampler: Sampler, logits: NDArray[np.float32], seeds: noise.I64, indices: noise.I64) -> None:
    got = draw.tokens(torch.from_numpy(logits), seeds, indices).tolist()
    rows = zip(logits, seeds.tolist(), indices.tolist(), strict=True)
    expected = [sampler.sample(row, SamplingParams(1.0, seed=seed), index) for row, seed, index in rows]
    assert got == expected, (logits.shape, seeds, indices, got, expected)


def main() -> None:
    rng = np.random.default_rng(5)
    drawn = 0
    for n_vocab, rounds in ROUNDS.items():
        draw, sampler = Draw(n_vocab), Sampler(n_vocab)
        assert draw.tokens(torch.empty(0, n_vocab), np.empty(0, np.int64), np.empty(0, np.int64)).tolist() == []
        for _ in range(rounds):
            for logits in kinds(rng, n_vocab).values():
                seeds = rng.integers(-(2**63), 2**63 - 1, ROWS, dtype=np.int64)
                seeds[: len(SEEDS)] = SEEDS
                check(draw, sampler, logits, seeds, rng.integers(1, 2**31, ROWS, dtype=np.int64))
                drawn += ROWS
    nothing = Draw(12).tokens(torch.full((1, 12), torch.nan), np.zeros(1, np.int64), np.ones(1, np.int64))
    assert 0 <= int(nothing) < 12, "a token outside the vocabulary would kill the engine"
    print(f"{drawn} tokens equal")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
