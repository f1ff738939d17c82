"""Windows of tokens for training and validation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class Windows:
    """Goes through a token file in windows of T + 1 ids, in random order and without repeats within a pass."""

    def __init__(self, path: Path, length: int, seed: int = 0, position: int = 0) -> None:
        self.ids = np.fromfile(path, dtype=np.uint16)
        self.length = length
        self.seed = seed
        self.position = position  # windows given out so far, over all passes
        self.per_pass = (len(self.ids) - 1) // length - 1
        self._order: tuple[int, np.ndarray, int] | None = None

    def _window(self, index: int) -> np.ndarray:
        turn, place = divmod(index, self.per_pass)
        if self._order is None or self._order[0] != turn:
            rng = np.random.default_rng([self.seed, turn])
            # A new offset each pass puts the cuts between windows elsewhere.
            self._order = (turn, rng.permutation(self.per_pass), int(rng.integers(self.length)))
        start = int(self._order[1][place]) * self.length + self._order[2]
        return self.ids[start : start + self.length + 1]

    def next(self, batch: int) -> Tensor:
        """The next (batch, T + 1) ids, int64."""
        rows = [self._window(self.position + i) for i in range(batch)]
        self.position += batch
        return torch.from_numpy(np.stack(rows).astype(np.int64))


def validation(folder: Path, length: int = 512, share: float = 1.0) -> dict[str, Tensor]:
    """Validation windows by kind, each (N, T + 1) ids; ``share`` < 1 takes only the first part of each kind."""
    ids = np.fromfile(folder / "val.bin", dtype=np.uint16).astype(np.int64)
    out = {}
    for kind, (start, end) in json.loads((folder / "val.json").read_text()).items():
        count = max(1, int((end - start - 1) // length * share))
        rows = [ids[start + i * length : start + (i + 1) * length + 1] for i in range(count)]
        out[kind] = torch.from_numpy(np.stack(rows))
    return out
