"""Whether a program takes on work, and has any."""

from __future__ import annotations

import pytest

from pipesd_core.errors import ShuttingDown
from pipesd_core.service.lifecycle import Lifecycle


class Agents:
    def __init__(self) -> None:
        self.running = 0
        self.deadlines: list[float] = []
        self.closed = 0

    def sessions(self) -> int:
        return self.running

    def drain(self, deadline_s: float) -> None:
        self.deadlines.append(deadline_s)

    def hang_up(self) -> None:
        self.closed += 10

    async def aclose(self) -> None:
        self.closed += 1


async def test_requests_and_sessions_are_work_and_agents_are_told() -> None:
    lifecycle, agents = Lifecycle(), Agents()
    lifecycle.drain(1.0)
    lifecycle.hang_up()
    await lifecycle.aclose()  # nobody to tell
    idle = [lifecycle.idle]
    lifecycle.host = agents
    for agents.running, lifecycle.requests in ((0, 0), (1, 0), (0, 1), (1, 1), (0, 0)):
        idle.append(lifecycle.idle)
    assert idle == [True, True, False, False, False, True]
    lifecycle.drain(7.0)
    assert agents.deadlines == [7.0]
    await lifecycle.aclose()
    lifecycle.hang_up()
    assert agents.closed == 11


def test_nothing_new_in_a_drain() -> None:
    lifecycle = Lifecycle()
    lifecycle.admit()
    lifecycle.draining = True
    with pytest.raises(ShuttingDown, match="shutting down") as refused:
        lifecycle.admit()
    assert 5 <= int(refused.value.headers()["retry-after"]) <= 8


def test_nobody_is_told_to_come_back_before_the_end_of_a_drain() -> None:
    lifecycle = Lifecycle()
    lifecycle.draining = True
    lifecycle.drain(30.0)
    with pytest.raises(ShuttingDown) as refused:
        lifecycle.admit()
    assert 25 < refused.value.retry_after_s <= 30
