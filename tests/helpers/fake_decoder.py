"""A decoder that writes a given answer, byte by byte, whatever the prompt: for tests of what lies above it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipesd_core.errors import ApiError, InvalidRequest
from pipesd_core.llamacpp.constraint import Grammar
from pipesd_core.llamacpp.openai.logits_processing import Constraint, LogitsProcessing
from pipesd_core.llamacpp.runtime.logprobs import Decoded, Ranked
from pipesd_core.sampling.params import SamplingParams

EOS = 256
BOS = 257


class FakeConstraint:
    """Allows everything."""

    def allowed(self) -> NDArray[np.int64]:
        return np.arange(FakeModel.n_vocab)

    def accept(self, token: int) -> None:
        pass


class FakeModel:
    """Tokens are bytes, then EOS and BOS."""

    n_vocab = 258
    bos: int | None = BOS
    eos: int | None = EOS
    adds_bos = False
    eog_ids = (EOS,)
    tool_template: str | None = None
    chat_template: str | None = "{% for m in messages %}{{ m.content }}{% endfor %}"

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        assert special
        return list(text.encode())

    def piece(self, token: int, *, special: bool) -> bytes:
        return bytes([token]) if token < 256 else (b"<s>" if special else b"")

    def constraint(self, grammar: Grammar) -> Constraint:
        if "forbidden" in grammar.lark:
            raise InvalidRequest("a bad grammar", param=grammar.param)
        return FakeConstraint()

    def fingerprint(self) -> bytes:
        return bytes(16)


class FakeSequence:
    def __init__(
        self,
        decoder: FakeDecoder,
        answer: tuple[int, ...],
        on_step: Callable[[Decoded | ApiError], None],
        logits_processing: LogitsProcessing,
        on_working: Callable[[], None],
    ) -> None:
        self.decoder, self.answer, self.on_step, self.logits_processing = decoder, answer, on_step, logits_processing
        self.on_working = on_working
        self.at = 0
        self.accepted: list[int] = []
        """Right drafts of each step."""
        self.released = False

    def step(self, drafts: Sequence[int]) -> None:
        asyncio.get_running_loop().call_soon(self._done, tuple(drafts))

    def _done(self, drafts: tuple[int, ...]) -> None:
        if self.decoder.failure is not None:
            self.on_step(self.decoder.failure)
            return
        answer = self.answer[self.at :]
        right = 0
        while right < min(len(drafts), len(answer) - 1) and drafts[right] == answer[right]:
            right += 1
        self.accepted.append(right)
        tokens = answer[: right + 1]
        self.at += len(tokens)
        self.on_step(Decoded(tokens, len(drafts), right, 1, 2, ranked=self.ranked(tokens)))

    def ranked(self, tokens: tuple[int, ...]) -> tuple[Ranked, ...]:
        """As if all were equally probable, but `!` impossible."""
        count = self.logits_processing.logprobs
        if count is None:
            return ()
        top = tuple((token, -5.5) for token in range(65, 65 + count))
        return tuple(Ranked(token, float("-inf") if token == 33 else -5.5, top) for token in tokens)

    def release(self) -> None:
        self.released = True


class FakeDecoder:
    n_ctx_seq = 64
    max_drafts = 8
    load: Final = {"places_free": 4, "queued": 0}
    wait_s = 20.0

    def __init__(self, answer: bytes, *, model: FakeModel | None = None) -> None:
        self.model = model or FakeModel()
        self.answer = (*answer, EOS)
        self.failure: ApiError | None = None
        self.fault: str | None = None
        self.sequences: list[FakeSequence] = []
        self.prompts: list[tuple[int, ...]] = []
        self.full = asyncio.Event()
        self.full.set()
        self.waiting = 0
        self.closed = False
        self.refusals: list[ApiError | None] = []
        """Raised by the next calls of `reserve`; None: accepted."""

    def answer_to(self, _prompt: tuple[int, ...], _seed: int) -> tuple[int, ...]:
        """The given one; for a subclass to change."""
        return self.answer

    async def reserve(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        limit: int,
        eos_ids: frozenset[int],
        on_step: Callable[[Decoded | ApiError], None],
        logits_processing: LogitsProcessing,
        constraint: Constraint | None,
        decided: Sequence[int] = (),
        on_working: Callable[[], None] = lambda: None,
    ) -> FakeSequence:
        assert eos_ids <= {EOS}
        assert limit > len(prompt_ids) + len(decided)
        assert (constraint is None) == (logits_processing.grammar is None)
        logits_processing.check_ids(self.model.n_vocab)
        if self.refusals and (refusal := self.refusals.pop(0)) is not None:
            raise refusal
        self.prompts.append(tuple(prompt_ids))
        self.waiting += 1
        try:
            await self.full.wait()
        finally:
            self.waiting -= 1
        answer = self.answer_to(tuple(prompt_ids), params.seed)[len(decided) :]
        sequence = FakeSequence(self, answer, on_step, logits_processing, on_working)
        self.sequences.append(sequence)
        return sequence

    async def aclose(self) -> None:
        self.closed = True
