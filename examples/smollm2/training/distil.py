"""Training of a draft on the target's texts: its layers and last norm; embedding and head stay the target's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from examples.smollm2.gguf_file import OUTPUT_NORM, GgufFile, encoded, writing
from examples.smollm2.hugging_face import PER_LAYER, to_halves, to_pairs
from examples.smollm2.training.generate import TOP, Text
from examples.smollm2.training.llama import HEADS, KV_HEADS, MATRICES, NORMS, VOCABULARY, WIDTH, Layer, Llama

ROW: Final = 512
"""Positions of a packed row."""
OTHERS: Final = 1024
"""Tokens drawn for each batch to stand for those that the target would not say there."""
IN_PROMPT: Final = 0.25
"""Weight of a position of the prompt; one of the answer counts 1."""
SAME_DIRECTION: Final = 2.0
"""Weight of 1 - cosine of the final states, beside the cross entropy (nats)."""
_ROTATED: Final = {"attn_q": HEADS, "attn_k": KV_HEADS}


@dataclass(frozen=True)
class Batch:
    """Packed texts. ids, starts: int64 (rows, ROW). where: int64 (n,), flat positions that have a label; the rest is of
    those: weights (n,), hidden (n, WIDTH), top int64 (n, TOP), p (n, TOP) with a sum of 1."""

    ids: Tensor
    starts: Tensor
    where: Tensor
    weights: Tensor
    hidden: Tensor
    top: Tensor
    p: Tensor


def packed(texts: Sequence[Text], rows: int, random: np.random.Generator, device: torch.device) -> Batch:
    """Rows filled with texts drawn at random; what does not fit is cut."""
    ids = np.zeros((rows, ROW), np.int64)
    starts = np.tile(np.arange(ROW), (rows, 1))
    where, weights, parts = [], [], []
    for row in range(rows):
        at = 0
        while ROW - at > 32:
            text = texts[int(random.integers(len(texts)))]
            n = min(len(text.ids), ROW - at)
            labelled = min(n, len(text.ids) - 1)
            ids[row, at : at + n] = text.ids[:n]
            starts[row, at : at + n] = at
            where.append(row * ROW + at + np.arange(labelled))
            weights.append(np.where(np.arange(labelled) >= text.prompt - 1, 1.0, IN_PROMPT))
            parts.append((text.hidden[:labelled], text.top[:labelled], text.p[:labelled]))
            at += n
    hidden, top, p = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))

    def tensor(array: npt.NDArray[np.generic], kind: torch.dtype) -> Tensor:
        return torch.from_numpy(array).to(device, kind)

    chances = tensor(p.astype(np.float32), torch.float32)
    return Batch(
        ids=tensor(ids, torch.int64),
        starts=tensor(starts, torch.int64),
        where=tensor(np.concatenate(where), torch.int64),
        weights=tensor(np.concatenate(weights), torch.float32),
        hidden=tensor(hidden.astype(np.float32), torch.float32),
        top=tensor(top.astype(np.int64), torch.int64),
        p=chances / chances.sum(1, keepdim=True),
    )


def loss_of(draft: Llama, batch: Batch) -> tuple[Tensor, float]:
    """(what is minimised, its cross entropy in nats), weighted means over the labelled positions.

    The softmax runs over all tokens that the target would say somewhere in the batch, and `OTHERS` more that are
    weighted up to stand for the rest of the vocabulary.
    """
    h = draft.hidden(batch.ids, batch.starts).reshape(-1, WIDTH)[batch.where].float()
    named, place = torch.unique(batch.top, return_inverse=True)
    rest = torch.ones(VOCABULARY, dtype=torch.bool, device=h.device)
    rest[named] = False
    others = rest.nonzero()[:, 0]
    drawn = others[torch.randint(len(others), (OTHERS,), device=h.device)]
    embedding = draft.embedding.float()
    logits = F.linear(h, embedding[named])
    weighted_up = F.linear(h, embedding[drawn]) + math.log(len(others) / OTHERS)
    total = torch.logaddexp(logits.logsumexp(1), weighted_up.logsumexp(1))
    cross = total - (batch.p * logits.gather(1, place.reshape(-1, TOP))).sum(1)
    apart = 1 - F.cosine_similarity(h, batch.hidden, dim=1)
    share = batch.weights / batch.weights.sum()
    return (share * (cross + SAME_DIRECTION * apart)).sum(), float((share * cross).sum().detach())


@torch.inference_mode()
def agreement(draft: Llama, texts: Sequence[Text]) -> float:
    """Share of the positions of answers at which the draft's best token is the target's, behind the target's text."""
    hits, positions = 0, 0
    for text in texts:
        ids = torch.from_numpy(text.ids.astype(np.int64)).to(draft.embedding.device)[None]
        h = draft.hidden(ids, torch.zeros_like(ids))[0, text.prompt - 1 : -1]
        guesses = F.linear(h, draft.embedding).argmax(1).cpu().numpy()
        hits += int((guesses == text.top[text.prompt - 1 : len(text.ids) - 1, 0]).sum())
        positions += len(guesses)
    return hits / positions


class Trainer:
    """AdamW on a draft's layers. Call `step` again and again, then `save`."""

    def __init__(self, draft: Llama, rate: float) -> None:
        self.draft, self._rate, self._steps = draft, rate, 0
        trained = [parameter for parameter in draft.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim == 2], "weight_decay": 0.02},
            {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
        ]
        self._trained = trained
        self._optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)

    def step(self, batch: Batch, done: float) -> float:
        """One update; gives the cross entropy. done: share of the training that is over; the last 40 % slow down."""
        self._steps += 1
        rate = self._rate * min(1.0, self._steps / 20, max(0.02, (1 - done) / 0.4))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        cuda = self.draft.embedding.device.type == "cuda"
        with torch.autocast("cuda", torch.bfloat16, enabled=cuda):
            loss, cross = loss_of(self.draft, batch)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._trained, 1.0)
        self._optimizer.step()
        return cross


def save_layers(draft: Llama, path: Path, matrices: str) -> None:
    """Write layers and last norm as the GGUF file that draft.py puts together; matrices: a key of `TYPES`."""
    arrays = {OUTPUT_NORM: draft.norm.detach().float().cpu().numpy()}
    for number, layer in enumerate(draft.layers):
        assert isinstance(layer, Layer)
        for part, theirs in PER_LAYER.items():
            source = layer.norms[theirs] if theirs in NORMS else layer.matrices[theirs.replace(".", "/")]
            weight = source.detach().float().cpu().numpy()
            weight = to_pairs(weight, _ROTATED[part]) if part in _ROTATED else weight
            arrays[f"blk.{number}.{part}.weight"] = weight
    with writing(path) as writer:
        for name, weight in arrays.items():
            tensor = encoded(name, weight, matrices)
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.kind)


def load_layers(draft: Llama, path: Path) -> None:
    """Take layers and last norm from what `save_layers` wrote. Raises KeyError for fewer layers than the draft has."""
    source = GgufFile(path)
    with torch.no_grad():
        draft.norm.copy_(torch.from_numpy(source.weights(OUTPUT_NORM)))
        for number, layer in enumerate(draft.layers):
            assert isinstance(layer, Layer)
            for part, theirs in PER_LAYER.items():
                weight = source.weights(f"blk.{number}.{part}.weight")
                weight = to_halves(weight, _ROTATED[part]) if part in _ROTATED else weight
                target = layer.matrices[theirs.replace(".", "/")] if theirs in MATRICES else layer.norms[theirs]
                target.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
