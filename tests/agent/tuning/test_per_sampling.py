"""The tuners of an agent: whose pair is whose, and what the next start begins with."""

from __future__ import annotations

import random
from pathlib import Path

from tuning import COSTS, START, WINDOW, FakeProposer, write

from pipesd_agent.control.triggers import DualThreshold
from pipesd_agent.tuning.per_sampling import Tuners
from pipesd_agent.tuning.replay import Pair
from pipesd_agent.tuning.store import ThresholdStore


def made(kept: Path | None) -> Tuners:
    store = ThresholdStore(kept) if kept else None
    tuners = Tuners(
        START, FakeProposer, window=WINDOW, upload="immediate", verification_cost_ms=0.0, kept=store, draft="m"
    )
    tuners.costs(COSTS)
    return tuners


def test_what_is_good_is_there_at_the_next_start(tmp_path: Path) -> None:
    tuners = made(tmp_path / "t.json")
    tuners.save()
    tuners.gateway("http://a")
    tuners.save()
    assert not (tmp_path / "t.json").exists()
    trigger = DualThreshold(tuners.thresholds)
    recorder = tuners.recorder(trigger)
    write(recorder._tuner, 2000, random.Random(1))
    found = tuners.figures()["greedy"].incumbent
    assert found != START
    assert tuners.figures()["sampled"].incumbent == START
    assert trigger.thresholds.pair == found
    tuners.save()
    again = made(tmp_path / "t.json")
    assert again.figures()["greedy"].pair == START
    again.gateway("http://a")
    assert again.figures()["greedy"].pair == found
    assert again.figures()["sampled"].pair == START
    again.gateway("http://b")  # nothing is known of it: what is in force stays
    assert again.figures()["greedy"].pair == found
    other = made(tmp_path / "t.json")
    other.gateway("http://b")
    assert other.figures()["greedy"].pair == START


def test_neither_waits_for_the_other() -> None:
    tuners = made(None)
    tuners.gateway("http://a")
    recorder = tuners.recorder(DualThreshold(tuners.thresholds))
    for sampled, tuner in recorder._tuners.items():
        write(tuner, 600, random.Random(sampled))
    assert all(figures.searches for figures in tuners.figures().values())
    tuners.close()
    assert all(figures.failed == "closed" for figures in tuners.figures().values())


def test_moved_reaches_those_that_are_meant() -> None:
    tuners = made(None)
    recorder = tuners.recorder(DualThreshold(tuners.thresholds))
    for tuner in recorder._tuners.values():
        write(tuner, 1000, random.Random(1))
        assert tuner.good is not None
    tuners.moved("a test", sampled=True)
    assert [recorder._tuners[sampled].good is None for sampled in (False, True)] == [False, True]
    tuners.save()  # nowhere to


def test_a_pair_that_was_kept_by_hand(tmp_path: Path) -> None:
    kept = ThresholdStore(tmp_path / "t.json")
    kept.put("m http://a 0 sampled", Pair(0.6, 0.7))
    tuners = made(tmp_path / "t.json")
    tuners.gateway("http://a")
    assert tuners.figures()["sampled"].pair == Pair(0.6, 0.7)
    assert tuners.figures()["greedy"].pair == START
