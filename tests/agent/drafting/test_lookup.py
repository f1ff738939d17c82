"""Prompt lookup."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from pipesd_agent.drafting import lookup
from pipesd_agent.drafting.drafter import DraftToken, NoDraft
from pipesd_agent.drafting.lookup import CONFIDENCE, CONFIDENCE_SAMPLED, LookupDrafter
from pipesd_core.sampling.params import SamplingParams

GREEDY = SamplingParams(temperature=0.0)


def next_of(drafter: LookupDrafter, lane: int = 0) -> DraftToken | NoDraft:
    (draft,) = drafter.draft([lane])
    return draft


def opened(ids: Sequence[int], params: SamplingParams = GREEDY) -> LookupDrafter:
    drafter = LookupDrafter()
    drafter.open(0, ids, params)
    return drafter


def naive(ids: list[int]) -> tuple[int, int] | None:
    """(token, length of the match), by scanning."""
    for n in (3, 2, 1):
        for end in range(len(ids) - 1, n - 1, -1):
            if ids[end - n : end] == ids[-n:]:
                return ids[end], n
    return None


def test_longest_match_wins() -> None:
    draft = next_of(opened([1, 2, 3, 4, 9, 3, 5, 1, 2, 3]))
    assert draft == DraftToken(position=10, token=4, confidence=CONFIDENCE[3])


def test_most_recent_match_of_a_length_wins() -> None:
    draft = next_of(opened([7, 1, 8, 7, 2, 9, 7]))
    assert draft == DraftToken(position=7, token=2, confidence=CONFIDENCE[1])


def test_confidence_is_lower_when_sampling() -> None:
    draft = next_of(opened([1, 2, 3, 4, 1, 2, 3], SamplingParams(temperature=1.0)))
    assert isinstance(draft, DraftToken)
    assert draft.confidence == CONFIDENCE_SAMPLED[3] < CONFIDENCE[3]


def test_nothing_without_a_match() -> None:
    drafter = opened([1, 2, 3])
    assert next_of(drafter) is NoDraft.NOTHING
    drafter.extend(0, [1])
    assert next_of(drafter) == DraftToken(position=4, token=2, confidence=CONFIDENCE[1])


def test_goes_on_along_its_own_drafts() -> None:
    drafter = opened([5, 6, 7, 8, 5, 6])
    tokens = [draft.token for _ in range(4) if isinstance(draft := next_of(drafter), DraftToken)]
    assert tokens == [7, 8, 5, 6]


def test_random_walk_equals_a_scan_of_the_whole_path() -> None:
    rng = random.Random(5)
    ids = [rng.randrange(6) for _ in range(10)]
    drafter = opened(ids)
    for _ in range(1500):
        action = rng.random()
        if action < 0.3 and len(ids) > 5:
            length = rng.randrange(max(1, len(ids) - 6), len(ids))
            drafter.truncate(0, length)
            del ids[length:]
        elif action < 0.6:
            more = [rng.randrange(6) for _ in range(rng.randrange(1, 4))]
            drafter.extend(0, more)
            ids += more
        else:
            draft, expected = next_of(drafter), naive(ids)
            if expected is None:
                assert draft is NoDraft.NOTHING
            else:
                assert draft == DraftToken(len(ids), expected[0], CONFIDENCE[expected[1]])
                ids.append(expected[0])


def test_long_prompt_is_indexed_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "CHUNK", 10)
    drafter = opened([*range(24), 3])
    drafter.open(1, [1, 1], GREEDY)
    assert drafter.behind(0)
    assert drafter.draft([0, 1])[0] is NoDraft.UNFINISHED
    assert drafter.draft([1], [0])[0] == DraftToken(position=3, token=1, confidence=CONFIDENCE[2])
    assert drafter.draft([0])[0] == DraftToken(position=25, token=4, confidence=CONFIDENCE[1])


def test_lanes_are_apart_and_closed_ones_are_forgotten() -> None:
    drafter = opened([1, 2, 1])
    drafter.open(1, [3, 4, 3], GREEDY)
    assert [d.token for d in drafter.draft([0, 1]) if isinstance(d, DraftToken)] == [2, 4]
    drafter.close(0)
    drafter.open(0, [9], GREEDY)
    assert next_of(drafter) is NoDraft.NOTHING
    drafter.release()
