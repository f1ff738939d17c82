"""A drafter with a floor, around one that takes no time."""

from __future__ import annotations

import threading
import time

from bench.proving.real.slow_agent import Floored
from pipesd_agent.drafting.drafter import DraftToken, NoDraft
from pipesd_agent.drafting.lookup import LookupDrafter
from pipesd_core.sampling.params import SamplingParams

FLOOR_S = 0.05


def floored(prompt: list[int], floor_s: float = FLOOR_S) -> Floored:
    drafter = Floored(LookupDrafter(capacity=1, max_context=100), floor_s)
    drafter.open(0, prompt, SamplingParams())
    return drafter


def test_a_draft_takes_the_floor() -> None:
    drafter = floored([1, 2, 3, 1, 2, 3, 1, 2])
    began = time.monotonic()
    (draft,) = drafter.draft([0])
    assert isinstance(draft, DraftToken)
    assert time.monotonic() - began >= FLOOR_S


def test_nothing_takes_no_time() -> None:
    drafter = floored([1, 2, 3, 4], 60.0)
    assert drafter.draft([0]) == [NoDraft.NOTHING]
    drafter.extend(0, [5])
    drafter.truncate(0, 4)
    assert drafter.draft([], feed=[0]) == []


def test_one_that_is_stopped_sleeps_no_longer() -> None:
    drafter = floored([1, 2, 3, 1, 2, 3, 1, 2], 60.0)
    timer = threading.Timer(0.05, drafter.stop)
    timer.start()
    drafter.draft([0])
    timer.join()
