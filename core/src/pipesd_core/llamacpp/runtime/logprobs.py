"""Logprobs of tokens under the unprocessed distribution (vLLM's default), and their form in the API."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from msgspec import Struct

from pipesd_core.engine.interface import StepDone
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.sampling.sampler import Logits

LEAST: Final = -9999.0
"""Smallest logprob that the API shows (as in vLLM): minus infinity is no JSON."""


class Ranked(Struct, frozen=True):
    """A decided token with its logprob, and the most probable (token, logprob) of its position, best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class Decoded(StepDone, frozen=True):
    """A step with the logprobs of its tokens, where the request wants them."""

    ranked: tuple[Ranked, ...] = ()


def rank(logits: Logits, token: int, count: int) -> Ranked:
    """The logprob of `token`, and the `count` most probable tokens, ties to the smallest id.

    logits: a row of unprocessed ones, float32 (n_vocab,).
    """
    scores = logits.astype(np.float64)
    scores -= scores.max()
    scores -= np.log(np.exp(scores).sum())
    top: list[int] = []
    if count:
        least = max(0, len(scores) - count)
        ids = np.flatnonzero(scores >= np.partition(scores, least)[least])
        top = ids[np.argsort(-scores[ids], kind="stable")][:count].tolist()
    return Ranked(token, float(scores[token]), tuple((other, float(scores[other])) for other in top))


class Logprobs:
    """The logprobs of one answer, kept until the text of their tokens is shown.

    Args:
        piece: bytes of a token, control tokens included.
    """

    def __init__(self, endpoint: Endpoint, piece: Callable[[int], bytes]) -> None:
        self._chat = endpoint is Endpoint.CHAT_COMPLETIONS
        self._piece = piece
        self._kept: list[tuple[Ranked, int]] = []

    def push(self, ranked: Ranked, offset: int) -> None:
        """Keep the next token of the answer. offset: characters of the text before it."""
        self._kept.append((ranked, offset))

    def take(self, count: int) -> dict[str, Any] | None:
        """The `logprobs` object of the next `count` tokens; None for none."""
        taken, self._kept = self._kept[:count], self._kept[count:]
        if not taken:
            return None
        if self._chat:
            return {"content": [self._entry(r.token, r.logprob) | self._top(r) for r, _ in taken], "refusal": None}
        return {
            "tokens": [self._text(ranked.token) for ranked, _ in taken],
            "token_logprobs": [max(ranked.logprob, LEAST) for ranked, _ in taken],
            "top_logprobs": [self._by_text([*ranked.top, (ranked.token, ranked.logprob)]) for ranked, _ in taken],
            "text_offset": [offset for _, offset in taken],
        }

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        return {"token": self._text(token), "logprob": max(logprob, LEAST), "bytes": list(self._piece(token))}

    def _top(self, ranked: Ranked) -> dict[str, Any]:
        return {"top_logprobs": [self._entry(token, logprob) for token, logprob in ranked.top]}

    def _by_text(self, tokens: Sequence[tuple[int, float]]) -> dict[str, float]:
        """Logprobs by text; of tokens with equal text, as parts of characters have, the first one's."""
        result: dict[str, float] = {}
        for token, logprob in tokens:
            result.setdefault(self._text(token), max(logprob, LEAST))
        return result

    def _text(self, token: int) -> str:
        return self._piece(token).decode("utf-8", "replace")
