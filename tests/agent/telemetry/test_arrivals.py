"""Stamps find their messages: by number, on each link anew, whatever is missing or made up."""

from __future__ import annotations

import pytest

from pipesd_agent.telemetry.arrivals import Arrivals
from pipesd_agent.telemetry.uplink import Uplink
from pipesd_core.protocol.messages import Draft, Endpoint, Open, Reason, Resume, Verdict

OPEN = Open(0, 1, Endpoint.COMPLETIONS, b"{}", b"")
DRAFT = Draft(0, 0, 10, (7,))


class Told(Uplink):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.arrivals: list[tuple[int, float]] = []
        self.restarts = 0

    def restart(self) -> None:
        self.restarts += 1
        super().restart()

    def arrived(self, number: int, stamp_s: float, period_s: float) -> float | None:
        self.arrivals.append((number, round(stamp_s, 6)))
        return super().arrived(number, stamp_s, period_s)


def verdict(heard: int, *stamps: int) -> Verdict:
    return Verdict(0, 1, 10, 0, 0, (7,), Reason.VERIFICATION, 0, 0, 0, heard, stamps)


def test_two_sessions_on_one_link() -> None:
    uplink = Told()
    one, two = Arrivals(uplink), Arrivals(uplink)
    for arrivals in (one, two, one, two, two):
        arrivals.sent(OPEN if not arrivals.sent_upto else DRAFT, 30, 0.0)
    assert two.reported(verdict(2, 1_000_000, 500_000))
    assert one.reported(verdict(2, 900_000, 300_000))
    assert two.reported(verdict(3, 1_700_000))
    assert uplink.arrivals == [(1, 1.0), (3, 1.5), (0, 0.9), (2, 1.2), (4, 1.7)]


def test_stamps_that_are_missing_and_numbers_that_are_repeated() -> None:
    uplink = Told()
    arrivals = Arrivals(uplink)
    arrivals.sent(OPEN, 500, 0.0)
    for number in range(5):
        arrivals.sent(DRAFT, 30, number * 0.1)
    assert arrivals.reported(verdict(4, 1_000_000)), "only the last of four"
    assert not arrivals.reported(verdict(4, 1_000_000)), "again"
    assert not arrivals.reported(verdict(0)), "says nothing"
    assert not arrivals.reported(verdict(7, 5_000_000)), "was never sent"
    assert not arrivals.reported(verdict(5)), "without stamps"
    assert arrivals.reported(verdict(6, 2_000_000))
    assert uplink.arrivals == [(3, 1.0), (5, 2.0)]


def test_more_stamps_than_messages() -> None:
    uplink = Told()
    arrivals = Arrivals(uplink)
    arrivals.sent(OPEN, 500, 0.0)
    arrivals.sent(DRAFT, 30, 0.1)
    arrivals.reported(verdict(2, 1_000_000, 1, 1, 1))
    assert [number for number, _ in uplink.arrivals] == [0, 1]


def test_the_answer_for_one_message() -> None:
    arrivals = Arrivals(Uplink())
    arrivals.sent(OPEN, 500, 0.0)
    arrivals.sent(DRAFT, 30, 0.1)
    arrivals.ask(arrivals.sent_upto)
    arrivals.sent(DRAFT, 30, 0.2)
    assert arrivals.reported(verdict(3, 1_000_000, 100_000, 100_000))
    assert arrivals.answer == pytest.approx(1.1)
    arrivals.ask(4)
    assert arrivals.answer is None


def test_on_another_link_the_count_begins_anew() -> None:
    uplink = Told()
    arrivals = Arrivals(uplink)
    arrivals.sent(OPEN, 500, 0.0)
    arrivals.sent(DRAFT, 30, 0.1)
    arrivals.sent(Resume(0, bytes(16), 0), 30, 5.0)
    assert uplink.restarts == 1
    arrivals.sent(DRAFT, 30, 5.1)
    arrivals.reported(verdict(2, 6_000_000, 100_000))
    assert uplink.arrivals == [(2, 6.0), (3, 6.1)]
