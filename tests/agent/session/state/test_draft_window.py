"""Drafts after the committed ids: what was sent of them, what is counted, what a verification takes."""

from __future__ import annotations

import pytest

from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.session.counts import Counts
from pipesd_agent.session.state.draft_window import DraftWindow
from pipesd_core.protocol.messages import MAX_DRAFTS_PER_MESSAGE


@pytest.fixture
def counts() -> Counts:
    return Counts()


@pytest.fixture
def window(counts: Counts) -> DraftWindow:
    window = DraftWindow(counts, now=1.0)
    window.opened(5)
    return window


def draft(window: DraftWindow, *tokens: int) -> None:
    for token in tokens:
        window.add(DraftToken(window.end, token, 0.5))


def test_drafts_are_sent_once_and_verified_when_asked(window: DraftWindow, counts: Counts) -> None:
    draft(window, 10, 11)
    assert (window.end, window.unsent, len(window)) == (7, 2, 2)
    assert window.take(2.0) == (5, (10, 11), None, 0)
    assert window.unsent == 0
    draft(window, 12)
    window.want_verification()
    assert window.take(3.0) == (7, (12,), 7, 3)
    assert (window.pending, window.pending_since, window.wanted) == (7, 3.0, None)
    assert counts == Counts(drafted=3, sent=3, requests=1)


def test_a_wish_goes_with_the_last_of_many_drafts(window: DraftWindow) -> None:
    draft(window, *range(MAX_DRAFTS_PER_MESSAGE + 2))
    window.want_verification()
    _, ids, through, _ = window.take(2.0)
    assert (len(ids), through) == (MAX_DRAFTS_PER_MESSAGE, None)
    assert window.take(2.0)[2] == window.end - 1


def test_what_is_right_and_sent_is_accepted(window: DraftWindow, counts: Counts) -> None:
    draft(window, 10, 11)
    window.take(2.0)
    draft(window, 12)
    assert [window.commit(token, compare=True)[1] for token in (10, 11, 12)] == [True, True, False]
    window.committed()
    assert (window.base, len(window), window.unsent) == (8, 0, 0)
    assert (counts.accepted, counts.sent, counts.rejected, counts.tokens) == (2, 2, 0, 3)


def test_after_a_wrong_draft_nothing_is_compared(window: DraftWindow, counts: Counts) -> None:
    draft(window, 10, 11)
    window.take(2.0)
    found, accepted = window.commit(20, compare=True)
    assert found is not None
    assert (found.token, accepted) == (10, False)
    window.discard()
    window.committed()
    assert (window.epoch, window.base, len(window), counts.discards) == (1, 6, 0, 1)
    assert counts.rejected == 2
    draft(window, 21)
    assert window.take(3.0) == (6, (21,), None, 0)


def test_drafts_that_are_sent_again_count_once(window: DraftWindow, counts: Counts) -> None:
    draft(window, 10, 11)
    window.take(2.0)
    assert window.send_again()
    assert (window.epoch, window.unsent) == (1, 2)
    draft(window, 12)
    assert window.take(3.0)[1] == (10, 11, 12)
    assert counts.sent == 3
    window.discard()
    assert not window.send_again()
    draft(window, 13)
    window.take(4.0)
    assert counts.sent == 4, "another draft for the same position"


def test_a_length_is_told_once(window: DraftWindow) -> None:
    draft(window, 10, 11)
    window.want_verification()
    assert window.take(2.0)[3] == 2
    window.send_again()
    window.want_verification()
    assert window.take(3.0)[2:] == (6, 0)
    draft(window, 12)
    window.want_verification()
    assert window.take(4.0)[3] == 1


def test_the_end_keeps_what_was_sent(window: DraftWindow) -> None:
    draft(window, 10)
    window.take(2.0)
    draft(window, 11)
    window.want_verification()
    window.stop()
    assert (len(window), window.wanted, window.pending) == (1, None, None)


def test_the_drafter_is_exhausted_until_the_target_goes_beyond(window: DraftWindow) -> None:
    draft(window, 10)
    window.exhausted = True
    window.commit(10, compare=True)
    assert window.exhausted
    window.commit(11, compare=True)
    assert not window.exhausted
