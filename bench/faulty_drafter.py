"""A drafter that is wrong on purpose: for tests and the bench."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import Final

import msgspec

from pipesd_agent.drafting.drafter import AnswerForm, Drafter, DraftToken, NoDraft
from pipesd_core.sampling.params import SamplingParams

_HASHES: Final = 2**32


class WrongDrafter:
    """Replaces each token of `inner` by a neighbouring id with probability `rate`; implements `Drafter`.

    Which ones is a function of (seed, position, token) alone. A replaced token keeps the confidence of the right one:
    what a trigger sees is a drafter that is sure of its mistakes.
    """

    def __init__(self, inner: Drafter, rate: float, seed: int = 0) -> None:
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"rate must lie between 0 and 1, but is {rate}")
        self._inner = inner
        self._below = rate * _HASHES
        self._seed = seed
        self.capacity = inner.capacity
        self.max_context = inner.max_context
        self.fingerprint = inner.fingerprint
        self.n_vocab = inner.n_vocab

    def open(self, lane: int, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        self._inner.open(lane, prompt_ids, params)

    def constrain(self, lane: int, form: AnswerForm) -> None:
        self._inner.constrain(lane, form)

    def close(self, lane: int) -> None:
        self._inner.close(lane)

    def extend(self, lane: int, ids: Sequence[int]) -> None:
        self._inner.extend(lane, ids)

    def truncate(self, lane: int, length: int) -> None:
        self._inner.truncate(lane, length)

    def behind(self, lane: int) -> bool:
        return self._inner.behind(lane)

    def draft(self, lanes: Sequence[int], feed: Sequence[int] = ()) -> list[DraftToken | NoDraft]:
        drafts = self._inner.draft(lanes, feed)
        return [self._spoil(lane, draft) for lane, draft in zip(lanes, drafts, strict=True)]

    def stop(self) -> None:
        self._inner.stop()

    def release(self) -> None:
        self._inner.release()

    def _spoil(self, lane: int, draft: DraftToken | NoDraft) -> DraftToken | NoDraft:
        if isinstance(draft, NoDraft) or self._hash(draft) >= self._below:
            return draft
        # The neighbour below exists in every vocabulary of two ids or more; the one above might not.
        wrong = draft.token - 1 if draft.token else 1
        self._inner.truncate(lane, draft.position)
        self._inner.extend(lane, [wrong])
        return msgspec.structs.replace(draft, token=wrong)

    def _hash(self, draft: DraftToken) -> int:
        key = struct.pack("<qqq", self._seed, draft.position, draft.token)
        return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "little")
