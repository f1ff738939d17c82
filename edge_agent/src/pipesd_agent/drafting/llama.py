"""A drafter over a draft model: a GGUF file on llama.cpp, with lanes as sequences of one context (architecture §6).

The rules that make logits independent of the batch do not matter here: a draft that rounds differently is only a draft.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipesd_agent.drafting.answer_constraint import AnswerConstraint
from pipesd_agent.drafting.confidence import SAMPLED, Logistic
from pipesd_agent.drafting.draft_sampler import DraftSampler
from pipesd_agent.drafting.drafter import AnswerForm, DraftToken, NoDraft
from pipesd_core.errors import ModelLoadError
from pipesd_core.llamacpp.binding import Context, Model
from pipesd_core.llamacpp.memory import fitted_context
from pipesd_core.protocol.fingerprint import fingerprint
from pipesd_core.sampling.params import SamplingParams

ROWS: Final = 64
"""Most rows of a forward: bounds a chunk of prefill, and with it for how long that holds up the other lanes."""


class _Sequence:
    """One sequence of the context: its path, and how much of it is in the KV cache."""

    def __init__(self, max_context: int) -> None:
        self.ids = np.zeros(max_context, np.int32)
        self.length = 0
        self.fed = 0
        self.params = SamplingParams()
        self.constraint: AnswerConstraint | None = None

    def common_prefix(self, ids: NDArray[np.int32]) -> int:
        n = min(self.fed, len(ids))
        differ = np.flatnonzero(self.ids[:n] != ids[:n])
        return int(differ[0]) if len(differ) else n


class LlamaDrafter:
    """Implements `Drafter`.

    Args:
        model_path: GGUF file. capacity: lanes. n_ctx_seq: positions of a lane (rounded up by llama.cpp, and no more
            than the model was trained for). threads: fewer than the free cores: llama.cpp's threads wait for each
            other at every operation, so one without a core makes decoding hundreds of times slower. gpu_layers: as for
            `Model`; a GPU may finish a forward that `stop` aborts on the CPU.

    Raises: ModelLoadError.
    """

    def __init__(
        self,
        model_path: str | Path,
        *,
        capacity: int = 4,
        n_ctx_seq: int = 2048,
        threads: int = 1,
        gpu_layers: int = 0,
        calibration: Logistic = SAMPLED,
    ) -> None:
        self._model = Model(model_path, gpu_layers=gpu_layers)
        self._model.prepare_constraints()
        pieces = list(self._model.vocabulary())
        self.fingerprint: bytes | None = fingerprint(pieces)
        self.n_vocab: int | None = self._model.n_vocab
        # Padding ids behind the last real one are in no fingerprint: the target may not have them, so never draft one.
        self._n_draftable = pieces[-1][0] + 1
        n_ctx_seq = fitted_context(self._model.path.name, n_ctx_seq, self._model.n_ctx_train)
        try:
            self._context = Context(
                self._model, n_ctx=capacity * n_ctx_seq, n_seq=capacity, n_batch=ROWS, threads=threads
            )
        except ModelLoadError:
            self._model.close()
            raise
        self._sampler = DraftSampler(self._n_draftable, calibration)
        self.capacity = capacity
        self.max_context = min(self._context.n_ctx_seq, self._model.n_ctx_train or self._context.n_ctx_seq)
        self._sequences = [_Sequence(self.max_context) for _ in range(capacity)]
        self._of_lane: dict[int, int] = {}
        self._tokens = np.zeros(ROWS, np.int32)
        self._positions = np.zeros(ROWS, np.int32)
        self._seqs = np.zeros(ROWS, np.int32)
        self._wanted = np.zeros(ROWS, np.int8)

    def open(self, lane: int, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        """Take the free sequence whose cache has most of the prompt: the previous turn of the same chat, if any."""
        prompt = np.asarray(prompt_ids, np.int32)
        free = sorted(set(range(self.capacity)) - set(self._of_lane.values()))
        common = {seq: self._sequences[seq].common_prefix(prompt) for seq in free}
        seq = max(free, key=lambda s: (common[s], -self._sequences[s].fed))
        state = self._sequences[seq]
        self._of_lane[lane] = seq
        self._cut_cache(seq, common[seq])
        state.ids[: len(prompt)] = prompt
        state.length = len(prompt)
        state.params = params
        state.constraint = None

    def constrain(self, lane: int, form: AnswerForm) -> None:
        self._sequences[self._of_lane[lane]].constraint = AnswerConstraint(self._model, form)

    def close(self, lane: int) -> None:
        """The cache stays as it is, for the next turn."""
        del self._of_lane[lane]

    def extend(self, lane: int, ids: Sequence[int]) -> None:
        state = self._sequences[self._of_lane[lane]]
        state.ids[state.length : state.length + len(ids)] = ids
        state.length += len(ids)

    def truncate(self, lane: int, length: int) -> None:
        seq = self._of_lane[lane]
        state = self._sequences[seq]
        state.length = length
        if state.constraint is not None:
            state.constraint.truncate(length)
        self._cut_cache(seq, length)

    def behind(self, lane: int) -> bool:
        state = self._sequences[self._of_lane[lane]]
        return state.fed < state.length - 1

    def draft(self, lanes: Sequence[int], feed: Sequence[int] = ()) -> list[DraftToken | NoDraft]:
        self._context.clear_abort()
        row_of, fed = self._fill(lanes, feed)
        rows = sum(fed.values())
        if rows and not self._context.decode(
            self._tokens[:rows], self._positions[:rows], self._seqs[:rows], self._wanted[:rows]
        ):
            for seq in fed:  # aborted: a part may have got into the cache
                self._sequences[seq].fed = self._context.seq_length(seq)
            return [NoDraft.UNFINISHED] * len(lanes)
        for seq, count in fed.items():
            self._sequences[seq].fed += count
        return [self._next(self._of_lane[lane], row_of.get(lane)) for lane in lanes]

    def stop(self) -> None:
        self._context.request_abort()

    def release(self) -> None:
        self._context.close()
        self._model.close()

    def _fill(self, lanes: Sequence[int], feed: Sequence[int]) -> tuple[dict[int, int], dict[int, int]]:
        """Fill the batch; lanes with the least to feed first, so that one far behind gets what the others leave.

        Returns: (row with the logits of each lane that gets through, ids fed of each sequence).
        """
        needs = []
        for lane in lanes:
            seq = self._of_lane[lane]
            state = self._sequences[seq]
            if state.fed == state.length:  # its last id must be computed again for its logits
                self._cut_cache(seq, state.length - 1)
            needs.append((state.length - state.fed, lane, seq, True))
        for lane in feed:
            seq = self._of_lane[lane]
            state = self._sequences[seq]
            needs.append((state.length - 1 - state.fed, lane, seq, False))
        needs.sort()
        rows = 0
        row_of: dict[int, int] = {}
        fed: dict[int, int] = {}
        for need, lane, seq, drafts in needs:
            count = min(need, ROWS - rows)
            if count <= 0:
                continue
            state, end = self._sequences[seq], rows + count
            self._tokens[rows:end] = state.ids[state.fed : state.fed + count]
            self._positions[rows:end] = np.arange(state.fed, state.fed + count)
            self._seqs[rows:end] = seq
            self._wanted[rows:end] = 0
            if drafts and count == need:
                self._wanted[end - 1] = 1
                row_of[lane] = end - 1
            fed[seq] = count
            rows = end
        return row_of, fed

    def _next(self, seq: int, row: int | None) -> DraftToken | NoDraft:
        if row is None:
            return NoDraft.UNFINISHED
        state = self._sequences[seq]
        logits = self._context.row(row)[: self._n_draftable]
        allowed = None
        if state.constraint is not None:
            allowed = state.constraint.allowed(state.ids[: state.length], self._n_draftable)
        draft = self._sampler.sample(logits, state.params, state.length, allowed)
        state.ids[state.length] = draft.token
        state.length += 1
        return draft

    def _cut_cache(self, seq: int, length: int) -> None:
        state = self._sequences[seq]
        if state.fed > length:
            self._context.truncate(seq, length)
            state.fed = length
