"""The decode loop: one thread owns the target model's context and serves up to `n_seq` sequences with it.

The event loop hands commands over once per tick, so that sessions which answer the results of one llama_decode at once
are together in the next; the thread hands the results of one llama_decode back by one `call_soon_threadsafe`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipesd_core.errors import ApiError, EngineFailed, PipeSDError, ShuttingDown
from pipesd_core.llamacpp.binding import Context, Model
from pipesd_core.llamacpp.memory import fitted_context
from pipesd_core.llamacpp.openai.logits_processing import Constraint, LogitsProcessing
from pipesd_core.llamacpp.runtime.admission_queue import AdmissionQueue
from pipesd_core.llamacpp.runtime.batch_scheduler import Batch, BatchEntry, BatchScheduler, Job
from pipesd_core.llamacpp.runtime.logprobs import Decoded
from pipesd_core.llamacpp.runtime.rows import MAX_DRAFTS, MAX_ROWS
from pipesd_core.llamacpp.runtime.target_sampler import TargetSampler
from pipesd_core.sampling.params import SamplingParams
from pipesd_core.sampling.sampler import Sampler

log = logging.getLogger(__name__)

OnStep = Callable[[Decoded | ApiError], None]
OnWorking = Callable[[], None]

NO_LOGITS_PROCESSING: Final = LogitsProcessing()
JOIN_TIMEOUT_S: Final = 10.0
WORKING_EVERY_S: Final = 1.0
"""How often those that wait for a step are told, at most, that a forward pass has ended."""
_IDLE_CHECK_S: Final = 5.0
_ANSWER_S: Final = 0.002
"""Longest wait of the thread for the event loop to take the results of a decode, before it goes on with others."""


@dataclass(slots=True, frozen=True)
class _Start:
    job: Job


@dataclass(slots=True, frozen=True)
class _Step:
    job: Job
    drafts: tuple[int, ...]
    asked_ns: int


@dataclass(slots=True, frozen=True)
class _Release:
    job: Job


_Command = _Start | _Step | _Release
_Result = tuple[Job, Decoded | ApiError]


class DecoderSequence:
    """One sequence in a slot of the target. All calls on the event loop's thread. See `TargetDecoder.reserve`.

    committed: length of prompt + tokens that the target has decided.
    """

    def __init__(self, decoder: TargetDecoder, job: Job, on_step: OnStep, on_working: OnWorking) -> None:
        self.committed = len(job.ids)
        self._decoder = decoder
        self._job = job
        self._on_step = on_step
        self._on_working = on_working
        self._limit = job.limit
        self._stepping = False

    def step(self, drafts: Sequence[int]) -> None:
        """Take one step that verifies `drafts` (the first is for position `committed`).

        Exactly one Decoded, or ApiError, is given to `on_step`, unless the sequence is released before. Raises
        ValueError for drafts outside the vocabulary or too many of them, RuntimeError when a step is under way, the
        sequence has reached its limit, or it is over.
        """
        if not self._decoder.holds(self):
            raise RuntimeError("step on a sequence that is over")
        if self._stepping:
            raise RuntimeError("step while the step before it is under way")
        if self.committed >= self._limit:
            raise RuntimeError(f"step at position {self.committed}, but the answer ends at {self._limit}")
        if len(drafts) > self._decoder.max_drafts:
            raise ValueError(f"{len(drafts)} drafts; one step verifies at most {self._decoder.max_drafts}")
        n_vocab = self._decoder.model.n_vocab
        for draft in drafts:
            if not 0 <= draft < n_vocab:
                raise ValueError(f"draft {draft} is outside the vocabulary of {n_vocab}")
        self._stepping = True
        self._decoder.send(_Step(self._job, tuple(drafts), time.monotonic_ns()))

    def release(self) -> None:
        """Let go of the slot; nothing is delivered after this. Idempotent; its KV stays for prefix reuse."""
        self._decoder.release(self._job)

    def take(self, result: Decoded | ApiError) -> None:
        """Take the result of a step. Called by the decoder."""
        if not self._decoder.holds(self):
            return
        self._stepping = False
        if isinstance(result, Decoded):
            self.committed += len(result.tokens)
        else:
            self.release()
        self._on_step(result)

    def working(self) -> None:
        """Tell whoever waits for a step that a forward pass has ended. Called by the decoder."""
        if self._stepping:
            self._on_working()


class TargetDecoder:
    """The target model, its slots and the queue for them.

    Args:
        n_seq: sequences that run at once.
        n_ctx_seq: prompt + output of each, positions; no more are used than the model was trained for.
        threads: of llama.cpp.
        step_floor_s: EMULATION for demos: a decode that verifies takes at least this long, as a bigger target would.
        max_queue: calls of `reserve` that wait for a slot at most.

    Raises ModelLoadError when the model cannot be loaded.
    """

    max_drafts: Final = MAX_DRAFTS

    def __init__(
        self,
        model_path: Path,
        *,
        n_seq: int = 4,
        n_ctx_seq: int = 2048,
        threads: int = 1,
        step_floor_s: float = 0.0,
        max_queue: int = 16,
    ) -> None:
        self.model: Final = Model(model_path)  # on the CPU, whatever the build: exactness is proven there only
        self.n_ctx_seq: Final = fitted_context(model_path.name, n_ctx_seq, self.model.n_ctx_train)
        self.forwards = 0
        """llama_decode calls that had a step in them."""
        size = n_seq * self.n_ctx_seq
        try:
            self._context = Context(self.model, n_ctx=size, n_seq=n_seq, n_batch=n_seq * MAX_ROWS, threads=threads)
        except PipeSDError:
            self.model.close()
            raise
        self.model.prepare_constraints()
        self._sampler = Sampler(self.model.n_vocab)
        self._floor_s = step_floor_s
        # Event loop side.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._admission_queue = AdmissionQueue(n_seq, max_queue)
        self._live: dict[int, DecoderSequence] = {}
        self._numbers = 0
        self._outbox: list[_Command] = []
        self._closing = False
        self._died: str | None = None
        # Between the two. At most one start, step and release per sequence are in it: that is its bound.
        self._inbox: list[_Command] = []
        self._unanswered = False
        self._wake = threading.Condition()
        self._stop = threading.Event()
        self._working_told = time.monotonic()
        # Thread side.
        self._scheduler = BatchScheduler(n_seq)
        self._thread = threading.Thread(target=self._run, name="pipesd-decoder", daemon=True)

    # On the event loop.

    @property
    def load(self) -> dict[str, int]:
        """Free slots, and requests that wait for one."""
        return {"places_free": self._admission_queue.free_slots, "queued": self._admission_queue.queued}

    @property
    def wait_s(self) -> float:
        """Expected wait of a new request for a slot, in seconds."""
        return self._admission_queue.wait_s

    @property
    def fault(self) -> str | None:
        """Why there is no decode thread any more, though nobody closed it; None: there is, or it has not begun."""
        if self._stop.is_set() or self._loop is None or self._thread.is_alive():
            return self._died
        return self._died or "its thread ended"

    async def reserve(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        limit: int,
        eos_ids: frozenset[int],
        on_step: OnStep,
        logits_processing: LogitsProcessing = NO_LOGITS_PROCESSING,
        constraint: Constraint | None = None,
        decided: Sequence[int] = (),
        on_working: OnWorking = lambda: None,
    ) -> DecoderSequence:
        """A slot for a prompt; waits for one, first come first served. Prefill begins at once.

        Args:
            prompt_ids: at least one id.
            limit: absolute position at which the answer ends: prompt + max_tokens, at most `n_ctx_seq`.
            eos_ids: ids after which a step ends.
            on_step: gets what each step did; after an ApiError the sequence is over and its slot free.
            logits_processing: checked against the vocabulary.
            constraint: that of the logits_processing, at the end of `decided`.
            decided: tokens of the answer that another model chose; the first step is for the position after them.
            on_working: called while a step is under way, about once a second, as long as forward passes end.

        Raises Overloaded when `max_queue` others wait, ShuttingDown when closed, ValueError for a prompt or limit that
        does not fit. Cancelling the call gives the slot back.
        """
        ids = [*prompt_ids, *decided]
        self._check(ids, limit)
        self._start()
        await self._admission_queue.acquire()
        self._numbers += 1
        target_sampler = TargetSampler(self._sampler, params, logits_processing, prompt_ids, constraint, decided)
        job = Job(self._numbers, ids, target_sampler, limit, eos_ids)
        sequence = self._live[job.number] = DecoderSequence(self, job, on_step, on_working)
        self.send(_Start(job))
        return sequence

    def _check(self, prompt_ids: Sequence[int], limit: int) -> None:
        if not 0 < len(prompt_ids) < limit <= self.n_ctx_seq:
            raise ValueError(
                f"a prompt of {len(prompt_ids)} tokens and an answer up to position {limit} do not fit: "
                f"0 < prompt < limit <= {self.n_ctx_seq}"
            )
        if not all(0 <= token < self.model.n_vocab for token in prompt_ids):
            raise ValueError(f"the prompt has ids outside the vocabulary of {self.model.n_vocab}")

    def _start(self) -> None:
        if self._loop is None and not self._closing:
            self._loop = asyncio.get_running_loop()
            self._thread.start()

    def holds(self, sequence: DecoderSequence) -> bool:
        """Whether a sequence is still in its slot."""
        return self._live.get(sequence._job.number) is sequence

    def release(self, job: Job) -> None:
        """Free the slot of a job. Called by `DecoderSequence.release`."""
        if self._live.pop(job.number, None) is not None:
            self.send(_Release(job))
            self._admission_queue.release()

    def send(self, command: _Command) -> None:
        """Hand a command to the thread with all others of this tick of the event loop."""
        if not self._outbox and self._loop is not None:
            self._loop.call_soon(self._flush)
        self._outbox.append(command)

    def _flush(self) -> None:
        with self._wake:
            self._inbox += self._outbox
            self._wake.notify()
        self._outbox.clear()

    def _deliver(self, results: list[_Result]) -> None:
        for job, result in results:
            sequence = self._live.get(job.number)
            if sequence is not None and self._loop is not None:
                # Each in a callback of its own: one that raises costs the others nothing. All run in one tick.
                self._loop.call_soon(sequence.take, result)
        if self._loop is not None:
            self._loop.call_soon(self._answered)

    def _tell_working(self, sequences: dict[int, DecoderSequence]) -> None:
        for sequence in list(sequences.values()):
            sequence.working()

    def _answered(self) -> None:
        """Let the thread go on, now that every sequence has seen the results of a decode and ordered its next step."""
        self._unanswered = False
        self._flush()

    def _fail_all(self, error: ApiError) -> None:
        self._closing = True
        self._admission_queue.close(error)
        self._deliver([(sequence._job, error) for sequence in self._live.values()])

    async def aclose(self) -> None:
        """Stop: whoever waits or runs gets ShuttingDown. Waits for the thread, at most `JOIN_TIMEOUT_S`. Idempotent."""
        if self._stop.is_set():
            return
        self._fail_all(ShuttingDown("the target is shutting down; try again later"))
        self._stop.set()
        self._context.request_abort()
        with self._wake:
            self._wake.notify()
        if self._loop is not None:
            await asyncio.to_thread(self._thread.join, JOIN_TIMEOUT_S)
        if self._thread.is_alive():
            log.error("the decode thread did not stop within %s s; its memory is not freed", JOIN_TIMEOUT_S)
            return
        self.model.close()

    # On the decode thread.

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:  # a bug: without the thread no request would ever end
            self._died = f"{type(error).__name__}: {error}"
            log.exception("the decode thread died")
            self._call(self._fail_all, EngineFailed("the target's decode thread died; see the gateway's log"))

    def _serve(self) -> None:
        idle = True
        while not self._stop.is_set():
            self._obey(self._commands(wait=idle))
            batch = self._scheduler.next_batch()
            idle = batch is None
            if batch is not None and (results := self._turn(batch)):
                self._unanswered = True  # before the call: the answer may be there before this thread goes on
                self._call(self._deliver, results)
            if batch is not None and time.monotonic() - self._working_told >= WORKING_EVERY_S:
                self._working_told = time.monotonic()
                self._call(self._tell_working, self._live)

    def _commands(self, *, wait: bool) -> list[_Command]:
        with self._wake:
            if self._unanswered:
                # Sessions that answer at once are together in the next decode even if others have work already:
                # else two groups of them would take turns for ever, with twice the forward passes.
                self._wake.wait_for(lambda: not self._unanswered, _ANSWER_S)
                self._unanswered = False
            elif wait and not self._inbox and not self._stop.is_set():
                self._wake.wait(_IDLE_CHECK_S)
                if self._loop is None or self._loop.is_closed():
                    self._stop.set()  # the owner has gone without aclose
            commands, self._inbox = self._inbox, []
            return commands

    def _obey(self, commands: list[_Command]) -> None:
        for command in commands:
            match command:
                case _Start(job):
                    slot, keep = self._scheduler.start(job)
                    self._context.truncate(slot.index, keep)
                case _Step(job, drafts, asked_ns):
                    job.drafts, job.asked_ns = drafts, asked_ns
                case _Release(job):
                    self._scheduler.finish(job)

    def _turn(self, batch: Batch) -> list[_Result]:
        """Run one llama_decode. An error ends the sequences that were in it, and no others."""
        try:
            return self._decode(batch)
        except Exception as error:
            log.exception("decoding %d rows failed", len(batch.tokens))
            for entry in batch.entries:
                self._scheduler.finish(entry.job)
                entry.slot.cached.clear()
                self._context.truncate(entry.slot.index, 0)
            failure = f"the target failed: {error}"
            return [(entry.job, EngineFailed(failure)) for entry in batch.entries]

    def _decode(self, batch: Batch) -> list[_Result]:
        began_ns = time.monotonic_ns()
        done = self._context.decode(batch.tokens, batch.positions, batch.seqs, batch.wanted)
        if not done:  # aborted by aclose: every caller has its error
            return []
        results: list[_Result] = []
        verified: list[tuple[BatchEntry, list[int], int]] = []
        for entry in batch.entries:
            if entry.step:
                try:
                    verified.append((entry, *self._verify(entry)))
                except ApiError as error:  # of this sequence alone
                    self._scheduler.finish(entry.job)
                    results.append((entry.job, error))
        for entry in batch.entries:
            slot, job = entry.slot, entry.job
            slot.cached += entry.tokens
            del slot.cached[len(job.ids) - 1 :]
            self._context.truncate(slot.index, len(slot.cached))  # wrong drafts and dummy rows
        if verified:
            self.forwards += 1
            if self._floor_s:
                self._stop.wait(self._floor_s - (time.monotonic_ns() - began_ns) / 1e9)
        forward_us = (time.monotonic_ns() - began_ns) // 1000
        for entry, tokens, accepted in verified:
            queue_us = max(0, began_ns - entry.job.asked_ns) // 1000
            ranked = entry.job.target_sampler.take_ranked()
            step = Decoded(tuple(tokens), len(entry.drafts), accepted, queue_us, forward_us, ranked=ranked)
            results.append((entry.job, step))
        return results

    def _verify(self, entry: BatchEntry) -> tuple[list[int], int]:
        job = entry.job

        def draw(row: int) -> int:
            return job.target_sampler.sample(self._context.row(entry.offset + row), len(job.ids) + row)

        tokens, accepted = job.verify(entry.drafts, draw)
        job.ids += tokens
        job.drafts = None
        return tokens, accepted

    def _call(self, function: Callable[..., None], argument: object) -> None:
        """Run a function on the event loop; when there is none any more, the thread has no reason to go on."""
        assert self._loop is not None, "the thread starts after the loop is known"
        try:
            self._loop.call_soon_threadsafe(function, argument)
        except RuntimeError:
            log.warning("the event loop was closed before the decoder: its results are lost")
            self._stop.set()
