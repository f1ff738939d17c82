"""Continue prompts, many at a time, greedily or by sampling."""

from __future__ import annotations

import torch
from model import LM, Cache
from torch import Tensor

STOP_IDS = (0, 3)  # end of text, end of a chat turn


@torch.inference_mode()
def generate(model: LM, prompts: list[list[int]], new_tokens: int, temperatures: list[float]) -> list[list[int]]:
    """The continuation of each prompt, at most ``new_tokens`` ids, up to and including a stop id.

    A temperature of 0 means greedy. Prompts of several lengths run in step: while a longer prompt lasts, its
    own ids are taken instead of the model's.
    """
    shortest, longest = min(map(len, prompts)), max(map(len, prompts))
    total = longest + new_tokens
    ids = torch.zeros(len(prompts), total, dtype=torch.long)
    given = torch.zeros(len(prompts), total, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt)
        given[row, : len(prompt)] = True
    heat = torch.tensor(temperatures)[:, None]
    stops = torch.tensor(STOP_IDS)
    ends = torch.tensor([len(p) + new_tokens for p in prompts])
    done = torch.zeros(len(prompts), dtype=torch.bool)
    model.eval()
    cache = Cache(total)
    logits = model.next_logits(ids[:, :shortest], cache)
    for at in range(shortest, total):
        chosen = pick(logits.float(), heat)
        ids[:, at] = torch.where(given[:, at], ids[:, at], chosen)
        done |= ~given[:, at] & torch.isin(ids[:, at], stops) | (at + 1 >= ends)
        if done.all():
            break
        logits = model.next_logits(ids[:, at : at + 1], cache)
    out = []
    for row, prompt in enumerate(prompts):
        continuation = ids[row, len(prompt) : len(prompt) + new_tokens].tolist()
        stop = next((i for i, t in enumerate(continuation) if t in STOP_IDS), len(continuation) - 1)
        out.append(continuation[: stop + 1])
    return out


def pick(logits: Tensor, heat: Tensor) -> Tensor:
    """One id a row: logits (B, V), temperatures (B, 1); Gumbel noise scaled by the temperature samples exactly."""
    noise = -torch.empty_like(logits).exponential_().log()
    return (logits + heat * noise).argmax(dim=-1)
