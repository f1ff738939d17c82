"""Both ends of a session with batchers that hold drafts back by a plan, or at random: no message is missing."""

from __future__ import annotations

import random

import pytest
from world import World

from pipesd_agent.control.triggers import DualSettings
from pipesd_agent.control.upload_planner import Planner
from pipesd_agent.session.policies import Batcher


class Whims:
    """Sends when it likes to."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def due(self, unsent: int, now: float) -> bool:  # noqa: ARG002
        return self._rng.random() < 0.3

    def reset(self) -> None:
        pass


def a_batcher(name: str, seed: int) -> Batcher:
    if name == "whims":
        return Whims(seed)
    planner = Planner(name)
    rng = random.Random(seed)
    planner.learn(rng.uniform(0, 300_000), rng.uniform(0, 100_000), rng.uniform(0, 100_000))
    planner.lengths.add(rng.randint(1, 12))
    return planner.batcher()


@pytest.mark.parametrize("name", ["whims", "dp", "expected"])
@pytest.mark.parametrize(("wrong", "dry"), [(0.0, 0.0), (0.3, 0.2)])
def test_whatever_is_held_back_no_timeout_is_needed(name: str, wrong: float, dry: float) -> None:
    for seed in range(30):
        rng = random.Random(seed)
        trigger = DualSettings(r1=rng.random(), r2=rng.random())
        free_start = None if seed % 2 == 0 else 1
        batcher = a_batcher(name, seed)
        world = World(seed, wrong=wrong, dry=dry, trigger=trigger, batcher=batcher, free_start=free_start)
        world.end_without_a_clock(rng)
