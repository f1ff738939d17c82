"""Batch scheduler: assigns sequences to slots of the KV cache and composes the next llama_decode. Pure Python.

A slot is one sequence of the KV cache; its cache holds everything of its sequence but the last committed token. That
one is row 0 of the next step, so that a step always has a row to draw the next token from. The decode thread owns all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipesd_core.llamacpp.runtime.rows import MAX_WANTED, padded
from pipesd_core.llamacpp.runtime.target_sampler import TargetSampler


@dataclass(slots=True)
class Job:
    """The decode thread's state of one sequence.

    ids: prompt and committed tokens. limit: absolute position at which the answer ends. drafts: those of the step asked
    for at `asked_ns` (monotonic), None while no step is asked for.
    """

    number: int
    ids: list[int]
    target_sampler: TargetSampler
    limit: int
    eos_ids: frozenset[int]
    drafts: Sequence[int] | None = None
    asked_ns: int = 0

    def verify(self, drafts: Sequence[int], draw: Callable[[int], int]) -> tuple[list[int], int]:
        """Verify the drafts of a step row by row: (tokens that the target decides, number of accepted drafts).

        drafts: those of the step, none at `limit` - 1 or later. draw: token drawn from the logits of row j, for the
        position len(ids) + j; called up to the first wrong draft or EOS id, and no further.
        """
        tokens: list[int] = []
        accepted = 0
        for row in range(len(drafts) + 1):
            token = draw(row)
            tokens.append(token)
            right = row < len(drafts) and drafts[row] == token
            accepted += right
            if not right or token in self.eos_ids:
                break
        return tokens, accepted


@dataclass(slots=True)
class Slot:
    """One slot of the KV cache. cached: ids whose keys and values are in it, from position 0 on."""

    index: int
    cached: list[int] = field(default_factory=list)
    job: Job | None = None


@dataclass(slots=True, frozen=True)
class BatchEntry:
    """The rows of one sequence in a batch: `tokens` from row `offset` on. step: a verification, else prefill."""

    slot: Slot
    job: Job
    tokens: list[int]
    step: bool
    offset: int

    @property
    def drafts(self) -> list[int]:
        return self.tokens[1:]


@dataclass(slots=True)
class Batch:
    """The rows of one llama_decode, ordered by slot (adjacent sequences share a ubatch), dummy rows included."""

    entries: list[BatchEntry] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)
    wanted: list[bool] = field(default_factory=list)

    @property
    def steps(self) -> bool:
        return any(entry.step for entry in self.entries)


class BatchScheduler:
    """Owns the slots of one context: assigns jobs to them and decides whose rows the next batch holds."""

    def __init__(self, n_slots: int) -> None:
        self.all = [Slot(index) for index in range(n_slots)]
        self._prefilling: list[Slot] = []  # oldest first

    def start(self, job: Job) -> tuple[Slot, int]:
        """Put a job into the free slot whose cache has the longest common prefix with it.

        Among equals the one that loses least. Returns: (slot, positions of its cache to keep); the caller cuts the
        cache. There must be a free slot: whoever hands out jobs counts them.
        """
        reusable = len(job.ids) - 1
        best, keep = None, -1
        for slot in self.all:
            if slot.job is None:
                common = min(common_prefix(slot.cached, job.ids), reusable)
                if best is None or (common, -len(slot.cached)) > (keep, -len(best.cached)):
                    best, keep = slot, common
        assert best is not None, "more jobs than slots"
        best.job = job
        del best.cached[keep:]
        self._prefilling.append(best)
        return best, keep

    def finish(self, job: Job) -> None:
        """Free the slot of a job, if it has one; its cache stays for the next prompt that begins alike."""
        for slot in self.all:
            if slot.job is job:
                slot.job = None
                self._prefilling = [other for other in self._prefilling if other is not slot]

    def next_batch(self) -> Batch | None:
        """Compose the next batch: every step that is asked for, and one chunk of the oldest prefill; None when idle.

        One chunk only, so that no step waits for more than that.
        """
        work: list[tuple[Slot, Job, list[int], bool]] = []
        self._prefilling = [slot for slot in self._prefilling if slot.job and _missing(slot, slot.job)]
        for slot in self.all:
            job = slot.job
            if job is None:
                continue
            if missing := _missing(slot, job):
                if slot is self._prefilling[0]:
                    begin = len(slot.cached)
                    work.append((slot, job, job.ids[begin : begin + min(missing, MAX_WANTED)], False))
            elif job.drafts is not None:
                # A draft at limit - 1 or later needs no row of its own: no token is drawn behind it.
                useful = job.drafts[: max(0, job.limit - len(job.ids) - 1)]
                work.append((slot, job, [job.ids[-1], *useful], True))
        return _assemble(work) if work else None


def _missing(slot: Slot, job: Job) -> int:
    """Number of positions that still have to be prefilled before a job can step."""
    return len(job.ids) - 1 - len(slot.cached)


def _assemble(work: list[tuple[Slot, Job, list[int], bool]]) -> Batch:
    batch = Batch()
    counts = padded([len(tokens) for _, _, tokens, _ in work])
    for (slot, job, tokens, step), count in zip(work, counts, strict=True):
        batch.entries.append(BatchEntry(slot, job, tokens, step, offset=len(batch.tokens)))
        begin = len(slot.cached)
        batch.tokens += tokens + [0] * (count - len(tokens))
        batch.positions += range(begin, begin + count)
        batch.seqs += [slot.index] * count
        # Logits of dummy rows too: the last layer runs over the wanted rows only, and one alone is other arithmetic.
        batch.wanted += [step] * count
    return batch


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    for index, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return index
    return min(len(a), len(b))
