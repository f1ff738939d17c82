"""Shared noise (architecture §5) in torch: the tokens of many rows at once, where the logits are.

The token is the argmax of logit + G, which is the argmin of E / exp(logit), where E = -log1p(-u) is an exponential
variate. Neither logarithm is taken for every token. As u <= E <= -log1p(-u') for u <= u', the smallest u / exp(logit)
of a row, which float32 is good enough for, bounds the winner's E / exp(logit); the few tokens below that bound are
scored exactly, as `sampler.Sampler` does it. The hash is `noise.hashes` in int32, which wraps, because torch can
neither shift nor compare uint32.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from pipesd_core.sampling import noise

AT_ONCE: Final = {"cpu": 2**17}
"""Elements processed at once on a CPU: as many as its caches hold."""
AT_ONCE_ELSEWHERE: Final = 2**24
"""Elements processed at once on other devices, which want few large calls: about 300 MB of temporary memory."""
SLACK: Final = 1.0 + 2.0**-14
"""Bound on float32's rounding errors in u, in the difference of two logits and in its exponential."""


class Draw:
    """Draws tokens of one vocabulary. Holds only what can be computed once per vocabulary and device.

    Args:
        n_vocab: number of logits in a row.
    """

    def __init__(self, n_vocab: int) -> None:
        self._mixed = torch.from_numpy(noise.mix_tokens(n_vocab).view(np.int32))

    def tokens(self, logits: torch.Tensor, seeds: noise.I64, indices: noise.I64) -> torch.Tensor:
        """The tokens that `Sampler.sample` gives for each row, at temperature 1.

        On a GPU the host waits once (per 2**24 logits).

        Args:
            logits: float32 of shape (rows, n_vocab), processed: temperature applied, excluded ids at -inf. Read only.
            seeds: shape (rows,).
            indices: absolute index of the token to be drawn, at least 1; shape (rows,).

        Returns: int64 of shape (rows,), on the device of the logits.
        """
        device, n_vocab = logits.device, len(self._mixed)
        self._mixed = self._mixed.to(device)
        prefixes = upload(noise.prefix(seeds, indices - 1).astype(np.uint32).view(np.int32), device)
        rows = max(1, AT_ONCE.get(device.type, AT_ONCE_ELSEWHERE) // n_vocab)
        parts = zip(logits.split(rows), prefixes.split(rows), strict=True)
        return torch.cat([_draw(part, _hashes(prefix, self._mixed)) for part, prefix in parts])


def upload(values: NDArray[np.number[Any]], device: torch.device) -> torch.Tensor:
    """Copy an array to a device without waiting for the copy."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _draw(logits: torch.Tensor, hashed: torch.Tensor) -> torch.Tensor:
    """Tokens (rows,) of logits and hashes (rows, n_vocab)."""
    n_rows, n_vocab = logits.shape
    race = _uniform(hashed, torch.float32).mul_((logits.amax(1, keepdim=True) - logits).exp_())
    bound = -torch.log1p(-(race.amin(1, keepdim=True).double() * SLACK).clamp(max=1.0))
    rows, ids = (race <= (bound * SLACK).float()).nonzero(as_tuple=True)
    scores = logits[rows, ids].double() - (-torch.log1p(-_uniform(hashed[rows, ids], torch.float64))).log()
    best = scores.new_full((n_rows,), -torch.inf).scatter_reduce(0, rows, scores, "amax")
    last = ids.new_full((n_rows,), n_vocab - 1)  # also what a row of nothing but NaN gets
    return last.scatter_reduce(0, rows, torch.where(scores == best[rows], ids, n_vocab - 1), "amin")


def _uniform(hashed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return hashed.view(torch.uint32).to(dtype).add_(0.5).mul_(2.0**-32)


def _hashes(prefixes: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
    """Bits of murmur3-32, int32 (rows, n_vocab), of prefixes (rows,) and mixed tokens (n_vocab,)."""
    h = prefixes[:, None] ^ mixed
    spare = torch.empty_like(h)

    def shifted(bits: int) -> torch.Tensor:
        """Logical shift to the right."""
        return torch.bitwise_right_shift(h, bits, out=spare).bitwise_and_(2 ** (32 - bits) - 1)

    high = shifted(19)
    h.bitwise_left_shift_(13).bitwise_or_(high).mul_(5).add_(0xE6546B64 - 2**32).bitwise_xor_(16)
    h.bitwise_xor_(shifted(16)).mul_(0x85EBCA6B - 2**32)
    h.bitwise_xor_(shifted(13)).mul_(0xC2B2AE35 - 2**32)
    return h.bitwise_xor_(shifted(16))
