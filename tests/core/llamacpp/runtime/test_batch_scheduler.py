from __future__ import annotations

import pytest

from pipesd_core.llamacpp.openai.logits_processing import LogitsProcessing
from pipesd_core.llamacpp.runtime.batch_scheduler import Batch, BatchScheduler, Job, common_prefix
from pipesd_core.llamacpp.runtime.rows import MAX_WANTED
from pipesd_core.llamacpp.runtime.target_sampler import TargetSampler
from pipesd_core.sampling.params import SamplingParams
from pipesd_core.sampling.sampler import Sampler

TARGET_SAMPLER = TargetSampler(Sampler(8), SamplingParams(), LogitsProcessing(), ())


def job(number: int, ids: list[int], limit: int = 1000, eos: frozenset[int] = frozenset()) -> Job:
    return Job(number, ids, TARGET_SAMPLER, limit, eos)


def prefill(slots: BatchScheduler) -> list[Batch]:
    """Take every prefill chunk as the decoder does."""
    batches = []
    while (batch := slots.next_batch()) is not None and not batch.steps:
        batches.append(batch)
        for entry in batch.entries:
            entry.slot.cached += entry.tokens
    return batches


def test_prefill_is_all_but_the_last_token_in_chunks() -> None:
    slots = BatchScheduler(2)
    ids = list(range(100, 100 + 2 * MAX_WANTED + 2))  # two whole chunks and one single row, then the last token
    slot, keep = slots.start(job(1, ids))
    assert keep == 0
    batches = prefill(slots)
    assert [len(batch.entries[0].tokens) for batch in batches] == [MAX_WANTED, MAX_WANTED, 1]
    assert [len(batch.tokens) for batch in batches] == [MAX_WANTED, MAX_WANTED, 2]
    assert batches[-1].positions == [2 * MAX_WANTED, 2 * MAX_WANTED + 1]
    assert not any(any(batch.wanted) for batch in batches)
    assert slot.cached == ids[:-1]
    assert slots.next_batch() is None


def test_a_decode_has_all_steps_and_one_chunk_of_the_oldest_prefill() -> None:
    slots = BatchScheduler(4)
    stepping, first, second = job(1, [7, 8]), job(2, [1] * 200), job(3, [2] * 200)
    slots.start(stepping)
    prefill(slots)
    slots.start(first)
    slots.start(second)
    stepping.drafts = [9, 10]
    batch = slots.next_batch()
    assert batch is not None
    assert [(entry.job, entry.step, len(entry.tokens)) for entry in batch.entries] == [
        (stepping, True, 3),
        (first, False, MAX_WANTED),
    ]
    assert batch.tokens[:3] == [8, 9, 10]
    assert batch.positions[:3] == [1, 2, 3]
    assert batch.wanted == [True] * 3 + [False] * MAX_WANTED
    assert batch.seqs == sorted(batch.seqs)


def test_a_step_alone_gets_a_dummy_row_with_logits() -> None:
    slots = BatchScheduler(1)
    only = job(1, [5])
    slots.start(only)
    only.drafts = []
    batch = slots.next_batch()
    assert batch is not None
    assert (batch.tokens, batch.positions, batch.wanted) == ([5, 0], [0, 1], [True, True])


def test_drafts_from_which_no_token_can_come_are_left_out() -> None:
    slots = BatchScheduler(1)
    only = job(1, [5, 6], limit=4)
    slots.start(only)
    prefill(slots)
    only.drafts = [1, 2, 3]
    batch = slots.next_batch()
    assert batch is not None
    assert batch.entries[0].drafts == [1]


def test_a_prompt_gets_the_free_slot_with_the_longest_common_prefix() -> None:
    slots = BatchScheduler(3)
    one, two = job(1, [1, 2, 3, 4, 5]), job(2, [1, 2, 9, 9, 9])
    slot_one, _ = slots.start(one)
    slot_two, _ = slots.start(two)
    prefill(slots)
    slots.finish(one)
    slots.finish(two)
    slot, keep = slots.start(job(3, [1, 2, 3, 4, 8, 8]))
    assert (slot, keep) == (slot_one, 4)
    assert slot.cached == [1, 2, 3, 4]
    slot, keep = slots.start(job(4, [1, 2, 3, 4, 5, 6]))
    assert (slot, keep) == (slot_two, 2)


def test_the_last_prompt_token_is_never_reused() -> None:
    slots = BatchScheduler(1)
    first = job(1, [1, 2, 3, 4])
    slots.start(first)
    prefill(slots)
    slots.finish(first)
    _, keep = slots.start(job(2, [1, 2]))
    assert keep == 1


def test_without_a_common_prefix_the_emptiest_slot_is_taken() -> None:
    slots = BatchScheduler(2)
    first = job(1, [1, 2, 3])
    used, _ = slots.start(first)
    prefill(slots)
    slots.finish(first)
    other, keep = slots.start(job(2, [9, 9]))
    assert other is not used
    assert keep == 0


def test_a_job_finished_in_the_middle_of_its_prefill_makes_room_for_the_next() -> None:
    slots = BatchScheduler(2)
    first, second = job(1, [1] * 200), job(2, [2] * 200)
    slots.start(first)
    slots.start(second)
    slots.finish(first)
    slots.finish(first)
    batch = slots.next_batch()
    assert batch is not None
    assert [entry.job for entry in batch.entries] == [second]


@pytest.mark.parametrize(
    ("drafts", "target", "tokens", "accepted"),
    [
        ([], [4], [4], 0),
        ([4, 5], [4, 5, 6], [4, 5, 6], 2),
        ([4, 9], [4, 5, 6], [4, 5], 1),
        ([9, 5], [4, 5, 6], [4], 0),
        ([4, 0, 6], [4, 0, 6, 7], [4, 0], 2),
        ([4, 9], [4, 0, 6], [4, 0], 1),
    ],
)
def test_verification_walks_to_the_first_wrong_draft_or_eos(
    drafts: list[int], target: list[int], tokens: list[int], accepted: int
) -> None:
    asked: list[int] = []

    def draw(row: int) -> int:
        asked.append(row)
        return target[row]

    assert job(1, [1], eos=frozenset({0})).verify(drafts, draw) == (tokens, accepted)
    assert asked == list(range(len(tokens)))


def test_common_prefix() -> None:
    assert common_prefix([], [1]) == 0
    assert common_prefix([1, 2], [1, 2, 3]) == 2
    assert common_prefix([1, 2, 4], [1, 2, 3]) == 2
