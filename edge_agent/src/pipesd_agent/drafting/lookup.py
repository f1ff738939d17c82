"""Prompt lookup: drafts the tokens that followed the last n-gram when it occurred before. No model, any vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pipesd_agent.drafting.drafter import AnswerForm, DraftToken, NoDraft
from pipesd_core.sampling.params import SamplingParams

NGRAMS: Final = (3, 2, 1)
"""Lengths of n-grams, longest first: the longest match wins, of those the most recent."""
CONFIDENCE: Final = {3: 0.8, 2: 0.55, 1: 0.25}
"""Confidence by match length, at T = 0. Measured (`bench/auc.py`): 0.96, 0.59, 0.29 on the demo pair, whose target
repeats itself more than a real one."""
CONFIDENCE_SAMPLED: Final = {3: 0.35, 2: 0.25, 1: 0.1}
"""Confidence at T > 0. Measured: 0.42, 0.36, 0.15 at T = 0.7 and 0.31, 0.17, 0.07 at T = 1."""
CHUNK: Final = 4096
"""Ids indexed per lane and call (a few milliseconds)."""


class _Lane:
    """A path and, for each n, where the n-gram that ends at each index ended before.

    `last[n]` maps an n-gram to the index behind its latest occurrence; `previous[n][i]` is what it said before the
    n-gram that ends at index i was entered. So the match of the path's end is a list access, and the index can be
    taken back id by id when the path is cut.
    """

    def __init__(self, ids: Sequence[int], params: SamplingParams) -> None:
        self.ids = list(ids)
        self.confidence = CONFIDENCE if params.greedy else CONFIDENCE_SAMPLED
        self.last: dict[int, dict[tuple[int, ...], int]] = {n: {} for n in NGRAMS}
        self.previous: dict[int, list[int]] = {n: [] for n in NGRAMS}
        self.indexed = 0

    def index(self, up_to: int) -> None:
        ids = self.ids
        for n in NGRAMS:
            last, previous = self.last[n], self.previous[n]
            for end in range(self.indexed + 1, up_to + 1):
                key = tuple(ids[max(0, end - n) : end])  # shorter keys at the start of the text match nothing else
                previous.append(last.get(key, 0))
                last[key] = end
        self.indexed = up_to

    def cut(self, length: int) -> None:
        ids = self.ids
        for n in NGRAMS:
            last, previous = self.last[n], self.previous[n]
            for end in range(self.indexed, length, -1):
                key = tuple(ids[max(0, end - n) : end])
                before = previous.pop()
                if before:
                    last[key] = before
                else:
                    del last[key]
        self.indexed = min(self.indexed, length)
        del ids[length:]


class LookupDrafter:
    """Implements `Drafter`.

    Args:
        capacity: lanes. max_context: longest path, ids.
    """

    fingerprint: bytes | None = None
    n_vocab: int | None = None

    def __init__(self, *, capacity: int = 64, max_context: int = 131_072) -> None:
        self.capacity = capacity
        self.max_context = max_context
        self._lanes: dict[int, _Lane] = {}

    def open(self, lane: int, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        self._lanes[lane] = _Lane(prompt_ids, params)

    def constrain(self, lane: int, form: AnswerForm) -> None:
        """Nothing: what ids mean is not known here."""

    def close(self, lane: int) -> None:
        del self._lanes[lane]

    def extend(self, lane: int, ids: Sequence[int]) -> None:
        self._lanes[lane].ids.extend(ids)

    def truncate(self, lane: int, length: int) -> None:
        self._lanes[lane].cut(length)

    def behind(self, lane: int) -> bool:
        state = self._lanes[lane]
        return state.indexed < len(state.ids) - 1

    def draft(self, lanes: Sequence[int], feed: Sequence[int] = ()) -> list[DraftToken | NoDraft]:
        for lane in feed:
            self._feed(self._lanes[lane])
        return [self._next(self._lanes[lane]) for lane in lanes]

    def stop(self) -> None:
        """Nothing to do: a call takes milliseconds."""

    def release(self) -> None:
        self._lanes.clear()

    def _feed(self, lane: _Lane) -> bool:
        lane.index(min(len(lane.ids), lane.indexed + CHUNK))
        return lane.indexed == len(lane.ids)

    def _next(self, lane: _Lane) -> DraftToken | NoDraft:
        if not self._feed(lane):
            return NoDraft.UNFINISHED
        position = len(lane.ids)
        for n in NGRAMS:
            if followed := lane.previous[n][-1]:
                token = lane.ids[followed]
                lane.ids.append(token)
                return DraftToken(position=position, token=token, confidence=lane.confidence[n])
        return NoDraft.NOTHING
