"""The arithmetic of the link emulator."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.link.lane import PACKET, Lane, Way, redrawn

sizes = st.lists(st.integers(1, 65536), min_size=1, max_size=30)


@given(sizes, st.floats(1e3, 1e9), st.floats(0, 1), st.floats(0, 0.1), st.lists(st.floats(0, 2), min_size=30))
def test_bytes_take_their_time_and_keep_their_order(
    chunks: list[int], rate: float, delay: float, jitter: float, gaps: list[float]
) -> None:
    lane = Lane(Way(rate, delay, jitter), seed=1)
    ready, arrivals, idle = 0.0, [], 0.0
    for size, gap in zip(chunks, gaps, strict=False):
        ready += gap
        idle += max(0.0, ready - max(lane.free_at, 0.0))
        lane.begin(size, ready)
        arrivals.append(lane.arrival())
        assert arrivals[-1] >= lane.free_at + delay
    assert arrivals == sorted(arrivals)
    # To the bit: what was sent, at the rate, and the time in which there was nothing to send.
    assert lane.free_at == pytest.approx(sum(chunks) * 8 / rate + idle, rel=1e-9)
    assert arrivals[-1] <= lane.free_at + delay + max(jitter, 0) + 1e-9 or len(chunks) > 1


def test_a_change_of_rate_holds_for_the_chunk_that_is_leaving() -> None:
    lane = Lane(Way(8000.0))
    lane.begin(1000, 10.0)
    assert lane.free_at == 11.0
    lane.change(Way(4000.0), 10.5)
    assert lane.free_at == pytest.approx(11.5)
    lane.change(Way(math.inf), 11.0)
    assert lane.free_at == pytest.approx(11.0)
    lane.change(Way(8.0), 20.0)
    assert lane.free_at == pytest.approx(11.0)


def test_a_stall_stops_what_is_leaving_and_what_comes() -> None:
    lane = Lane(Way(8000.0))
    lane.begin(1000, 0.0)
    lane.stall(5.0, 0.5)
    assert lane.free_at == 6.0
    lane.change(Way(math.inf), 1.0)  # the second of the chunk is over, the stall is not
    assert lane.free_at == pytest.approx(5.0)
    lane.stall(2.0, 10.0)
    lane.begin(1000, 10.0)
    assert lane.free_at == pytest.approx(12.0)


def test_slices() -> None:
    lane = Lane(Way(piece=3, pause_s=0.5))
    assert lane.way.chunk() == 3
    for _ in range(4):
        lane.begin(3, 0.0)
    assert lane.free_at == 2.0


def test_chunks_are_packets_unless_the_link_is_fast() -> None:
    assert Way(1e3).chunk() == Way(10e6).chunk() == PACKET
    assert Way(100e6).chunk() == 12_500
    assert Way().chunk() == 65536


def test_what_is_held_is_bounded() -> None:
    assert Way(delay_s=1000.0).room() < 10 * 2**20
    assert Way(200e6, 0.3).room() > 200e6 / 8 * 0.3
    assert Way(10e3).kernel_bytes() < 4096


@pytest.mark.parametrize("wrong", [{"rate": 0.0}, {"rate": -1.0}, {"delay_s": -0.1}, {"piece": -1}])
def test_links_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="of a link must"):
        Way(**wrong)  # type: ignore[arg-type]


def test_a_trace_is_its_seed() -> None:
    """The numbers are written down: a recorded seed has to mean the same link for ever."""
    trace = list(redrawn(4, (10e6, 80e6), (150e6, 280e6), 20.0, 3))
    assert trace == list(redrawn(4, (10e6, 80e6), (150e6, 280e6), 20.0, 3))
    assert (trace[0].up, trace[0].down) == pytest.approx((26523366.28162, 163411584.44999))
    assert all(a != b for a, b in pairwise(trace))
    assert all(10e6 <= step.up <= 80e6 and 150e6 <= step.down <= 280e6 for step in trace)
