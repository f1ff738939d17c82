"""The counts of a session."""

from __future__ import annotations

from pipesd_agent.session.counts import Counts


def test_what_was_sent_and_not_accepted_is_rejected() -> None:
    assert Counts(sent=9, accepted=4).rejected == 5


def test_sums() -> None:
    total = Counts()
    for counts in (Counts(tokens=3, sent=2), Counts(tokens=4, accepted=1)):
        total.add(counts)
    assert total == Counts(tokens=7, sent=2, accepted=1)
