"""The target's own texts, and what it thought at every token of them: what a draft is trained on."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from examples.smollm2.training.llama import WIDTH, Decoder, Llama
from examples.smollm2.training.prompts import AFTER_USER, BEFORE_USER, Prompts

TOP: Final = 32
"""Next tokens whose probabilities are kept; texts are drawn from as many."""
LENGTH: Final = 512
"""Longest text, prompt included, tokens."""
USER_TOKENS: Final = 90
"""Of a user's turn that the target writes."""
REPEATED: Final = 60
"""A text that has repeated itself for so many tokens is over: a draft has nothing to learn from more of it."""


@dataclass(frozen=True)
class Text:
    """One text and, for each position of it, the target's view of the next token.

    ids: uint16[n]. prompt: tokens before the answer. top: uint16[n, TOP], best first; p: float16[n, TOP], their
    probabilities; hidden: float16[n, WIDTH], the normed final state.
    """

    ids: npt.NDArray[np.uint16]
    prompt: int
    top: npt.NDArray[np.uint16]
    p: npt.NDArray[np.float16]
    hidden: npt.NDArray[np.float16]


@dataclass
class _Row:
    """A text in the making. forced: ids that are still to be read; by_target: does it write the user's turn?"""

    forced: deque[int]
    temperature: float
    by_target: bool
    ids: list[int] = field(default_factory=list)
    prompt: int = 0


class Generator:
    """Writes texts with a target, `rows` at once. Call `run`."""

    def __init__(self, target: Llama, tokenizer: Tokenizer, prompts: Prompts, *, rows: int, seed: int) -> None:
        self._target, self._tokenizer, self._prompts = target, tokenizer, prompts
        self._device = target.embedding.device
        self._decoder = Decoder(target, rows, LENGTH)
        self._random = torch.Generator(self._device).manual_seed(seed)
        self._head, self._turn = self._encode(BEFORE_USER), self._encode(AFTER_USER)
        self._end = self._turn[0]
        self._top = np.zeros((rows, LENGTH, TOP), np.uint16)
        self._p = np.zeros((rows, LENGTH, TOP), np.float16)
        self._hidden = np.zeros((rows, LENGTH, WIDTH), np.float16)
        self._rows = [self._row() for _ in range(rows)]

    def run(self, seconds: float, keep: Callable[[Text], None]) -> int:
        """Write for a time; gives the number of tokens. Texts that are not finished go on at the next call."""
        until, tokens = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            self._step(keep)
            tokens += len(self._rows)
        return tokens

    def _step(self, keep: Callable[[Text], None]) -> None:
        for row in self._rows:
            row.ids.append(row.forced.popleft())
        positions = np.array([len(row.ids) - 1 for row in self._rows])
        hidden = self._decoder.step(
            torch.tensor([row.ids[-1] for row in self._rows], device=self._device),
            torch.from_numpy(positions).to(self._device),
        )
        p, top = F.linear(hidden, self._target.embedding).float().softmax(-1).topk(TOP)
        drawn = self._drawn(p, top)
        at = np.arange(len(self._rows)), positions
        self._top[at], self._p[at], self._hidden[at] = (_numpy(part) for part in (top, p, hidden.half()))
        for number, row in enumerate(self._rows):
            over = not row.forced and not self._goes_on(row, drawn[number])
            if over or len(row.ids) >= LENGTH:
                self._finish(number, row, keep)

    def _drawn(self, p: Tensor, top: Tensor) -> list[int]:
        temperatures = torch.tensor([1.0 if row.by_target else row.temperature for row in self._rows])
        temperatures = temperatures.to(self._device)[:, None]
        noise = -torch.log(-torch.log(torch.rand(p.shape, generator=self._random, device=self._device)))
        chosen = (p.log() + temperatures * noise).argmax(1, keepdim=True)
        ids: list[int] = top.gather(1, chosen)[:, 0].tolist()
        return ids

    def _goes_on(self, row: _Row, token: int) -> bool:
        """Take the target's next token; False: the text is over."""
        if row.by_target:
            written = len(row.ids) - len(self._head)
            if token == self._end or written >= USER_TOKENS:
                row.forced.extend(self._turn)
                row.by_target = False
            else:
                row.forced.append(token)
            return True
        row.prompt = row.prompt or len(row.ids)
        if token == self._end:
            row.ids.append(token)
            return False
        row.forced.append(token)
        return not _repeats(row.ids[row.prompt :])

    def _finish(self, number: int, row: _Row, keep: Callable[[Text], None]) -> None:
        n = min(len(row.ids), LENGTH)
        if row.prompt:
            top, p, hidden = self._top[number, :n].copy(), self._p[number, :n].copy(), self._hidden[number, :n].copy()
            keep(Text(np.array(row.ids[:n], np.uint16), row.prompt, top, p, hidden))
            self._prompts.remember(self._tokenizer.decode(row.ids[row.prompt : n], skip_special_tokens=True).strip())
        self._rows[number] = self._row()

    def _row(self) -> _Row:
        turn = self._prompts.next()
        ids = self._head if turn is None else self._head + self._encode(turn)[: LENGTH // 2] + self._turn
        return _Row(deque(ids), self._prompts.temperature(), by_target=turn is None)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def _numpy(values: Tensor) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = values.cpu().numpy()
    return array


def _repeats(ids: list[int]) -> bool:
    """Are the last tokens a repetition of up to 20 tokens?"""
    tail = ids[-REPEATED:]
    return len(tail) == REPEATED and any(tail[period:] == tail[:-period] for period in range(1, 21))
