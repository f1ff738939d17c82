"""The claim of `runtime/rows.py` over the real model: logits do not depend on what else is in the llama_decode."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from repository import BUILD

from pipesd_core.llamacpp.binding import Context, Model
from pipesd_core.llamacpp.runtime.rows import MAX_ROWS, MAX_WANTED, padded

pytestmark = pytest.mark.e2e

N_SEQ, LENGTH = 4, 600

Padding = Callable[[list[int]], list[int]]


class Bench:
    """Random texts, the logits of each position computed alone in calls of 9 rows, and decodes to compare with them."""

    def __init__(self, path: Path) -> None:
        self.model = Model(path)
        self.context = Context(self.model, n_ctx=N_SEQ * 1024, n_seq=N_SEQ, n_batch=N_SEQ * (MAX_ROWS + 1))
        rng = np.random.default_rng(5)
        self.texts = [rng.integers(5, self.model.n_vocab, LENGTH).tolist() for _ in range(N_SEQ)]
        self.alone = [self._alone(text) for text in self.texts]

    def _alone(self, text: list[int]) -> NDArray[np.float32]:
        self.context.truncate(0, 0)
        logits = np.empty((LENGTH, self.model.n_vocab), np.float32)
        for begin in range(0, LENGTH - 1, 9):
            rows = text[begin : begin + 9]
            self.context.decode(rows, range(begin, begin + len(rows)), 0, True)
            for row in range(len(rows)):
                logits[begin + row] = self.context.row(row)
        return logits

    def different_rows(self, counts: Callable[[random.Random], int], pad: Padding, decodes: int) -> tuple[int, int]:
        """(rows that differ, rows compared) over decodes of random mixes, prefill and rollback included."""
        rng = random.Random(11)
        length = [0] * N_SEQ
        for seq in range(N_SEQ):
            self.context.truncate(seq, 0)
        different = compared = 0
        for _ in range(decodes):
            asked = {seq: count for seq in range(N_SEQ) if (count := counts(rng))}
            if not asked:
                continue
            tokens: list[int] = []
            positions: list[int] = []
            seqs: list[int] = []
            wanted: list[bool] = []
            for (seq, count), rows in zip(asked.items(), pad(list(asked.values())), strict=True):
                if length[seq] + rows > LENGTH:
                    length[seq] = rng.randrange(LENGTH - rows)
                    self.context.truncate(seq, length[seq])
                begin = length[seq]
                tokens += self.texts[seq][begin : begin + count] + [0] * (rows - count)
                positions += range(begin, begin + rows)
                seqs += [seq] * rows
                wanted += [rng.random() < 0.8] * rows
            self.context.decode(tokens, positions, seqs, wanted)
            for row, (seq, position) in enumerate(zip(seqs, positions, strict=True)):
                if wanted[row] and position < length[seq] + asked[seq]:
                    compared += 1
                    different += not np.array_equal(self.context.row(row), self.alone[seq][position])
            for seq, count in asked.items():
                length[seq] += count - (rng.randrange(count) if rng.random() < 0.5 else 0)
                self.context.truncate(seq, length[seq])
        return different, compared


@pytest.fixture(scope="module", params=["F32", "F16"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(BUILD / f"demo-target-{request.param}.gguf")
    yield bench
    bench.model.close()


def unpadded(counts: list[int]) -> list[int]:
    return counts


@pytest.mark.parametrize("most", [4, 9, MAX_WANTED])
def test_any_mix_of_padded_rows_is_bit_identical(bench: Bench, most: int) -> None:
    different, compared = bench.different_rows(lambda rng: rng.randint(0, most), padded, decodes=1500 // most)
    assert compared > 1000
    assert different == 0


def test_all_sequences_at_the_most_rows(bench: Bench) -> None:
    different, compared = bench.different_rows(lambda _: MAX_ROWS, unpadded, decodes=8)
    assert compared > 1000
    assert different == 0


def test_single_rows_left_over_and_64_rows_are_other_arithmetic(bench: Bench) -> None:
    """Why the padding is there, and that these tests would see it if it were wrong."""
    assert bench.different_rows(lambda rng: rng.randint(2, 4), unpadded, decodes=100)[0] > 100
    assert bench.different_rows(lambda _: MAX_ROWS + 1, unpadded, decodes=6)[0] > 100
