"""The drafter that is wrong on purpose."""

from __future__ import annotations

import pytest

from bench.faulty_drafter import WrongDrafter
from pipesd_agent.drafting.drafter import DraftToken, NoDraft
from pipesd_agent.drafting.lookup import LookupDrafter
from pipesd_core.sampling.params import SamplingParams

PROMPT = [5, 6, 7, 8] * 3


def drafts(rate: float, seed: int, n: int) -> list[DraftToken]:
    """What it says when every wrong draft is corrected, as a target would."""
    drafter = WrongDrafter(LookupDrafter(capacity=2), rate, seed)
    drafter.open(1, PROMPT, SamplingParams())
    found = []
    for position in range(len(PROMPT), len(PROMPT) + n):
        (draft,) = drafter.draft([1])
        assert isinstance(draft, DraftToken)
        assert draft.position == position
        found.append(draft)
        if draft.token != 5 + position % 4:
            drafter.truncate(1, position)
            drafter.extend(1, [5 + position % 4])
    drafter.close(1)
    drafter.release()
    return found


def wrong(found: list[DraftToken]) -> list[int]:
    return [d.position for d in found if d.token != 5 + d.position % 4]


def test_rate_is_kept() -> None:
    assert wrong(drafts(0.0, 1, 200)) == []
    assert len(wrong(drafts(1.0, 1, 200))) == 200
    assert len(wrong(drafts(0.3, 1, 2000))) == pytest.approx(600, abs=80)


def test_same_seed_is_wrong_at_the_same_places() -> None:
    assert wrong(drafts(0.3, 1, 300)) == wrong(drafts(0.3, 1, 300))
    assert wrong(drafts(0.3, 1, 300)) != wrong(drafts(0.3, 2, 300))


def test_inner_path_holds_the_replaced_token() -> None:
    inner = LookupDrafter()
    drafter = WrongDrafter(inner, 1.0)
    drafter.open(0, [0, 9, 0, 9, 1], SamplingParams())
    assert drafter.draft([0]) == [NoDraft.NOTHING]
    drafter.extend(0, [0])
    (draft,) = drafter.draft([0])  # lookup says 9
    assert isinstance(draft, DraftToken)
    assert draft.token == 8
    assert inner.draft([0]) == [NoDraft.NOTHING]  # 8 never occurred; behind 9 it would have found 0


def test_says_what_the_inner_one_is() -> None:
    inner = LookupDrafter(capacity=3, max_context=77)
    drafter = WrongDrafter(inner, 0.5)
    assert (drafter.capacity, drafter.max_context, drafter.fingerprint, drafter.n_vocab) == (3, 77, None, None)
    drafter.open(0, [1, 2, 3], SamplingParams())
    assert drafter.behind(0)
    drafter.stop()


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_bad_rate(rate: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        WrongDrafter(LookupDrafter(), rate)
