"""The times of requests, by a clock that the test turns."""

from __future__ import annotations

from typing import Literal

import pytest

from pipesd_core.service.histograms import Histogram
from pipesd_core.service.request_metrics import RequestMetrics


def seen(histogram: Histogram) -> tuple[int, float]:
    """How many observations, and their sum."""
    snapshot = histogram.snapshot()
    return snapshot.count, pytest.approx(snapshot.total)  # type: ignore[return-value]


def test_a_streamed_answer() -> None:
    metrics = RequestMetrics()
    timer = metrics.arrived(10.0)
    assert (metrics.received, metrics.waiting, metrics.running) == (1, 1, 0)
    timer.accepted(10.5)
    assert (metrics.waiting, metrics.running) == (0, 1)
    timer.output(2, 11.0)
    timer.output(3, 11.5)
    timer.output(6, 13.0)
    timer.finish("completed", 14.0)
    assert (metrics.waiting, metrics.running) == (0, 0)
    assert metrics.finished == {"completed": 1, "failed": 0, "aborted": 0, "refused": 0}
    assert seen(metrics.queue_time) == (1, 0.5)
    assert seen(metrics.time_to_first_token) == (1, 1.0)
    assert seen(metrics.inter_token_latency) == (2, 2.0)
    assert seen(metrics.time_per_output_token) == (1, 0.5), "four tokens in the two seconds after the first two"
    assert seen(metrics.latency) == (1, 4.0)


@pytest.mark.parametrize("counted", [0, 5])
def test_an_answer_in_one_piece_has_no_time_per_token(counted: int) -> None:
    metrics = RequestMetrics()
    timer = metrics.arrived(0.0)
    timer.accepted(0.0)
    timer.output(counted, 1.0)
    timer.finish("completed", 1.0)
    assert seen(metrics.time_per_output_token) == (0, 0.0)
    assert seen(metrics.latency) == (1, 1.0)


@pytest.mark.parametrize(
    ("end", "accepted", "counted"),
    [
        ("failed", True, "failed"),
        ("failed", False, "refused"),
        ("aborted", True, "aborted"),
        ("aborted", False, "aborted"),
        ("completed", False, "completed"),
    ],
)
def test_the_first_end_of_a_request_counts(
    end: Literal["completed", "failed", "aborted"], accepted: bool, counted: str
) -> None:
    metrics = RequestMetrics()
    timer = metrics.arrived(0.0)
    if accepted:
        timer.accepted(1.0)
    for moment in (2.0, 3.0):
        timer.finish(end, moment)
        timer.finish("completed", moment)
    timer.accepted(4.0)
    assert {name for name, count in metrics.finished.items() if count} == {counted}
    assert sum(metrics.finished.values()) == 1
    assert (metrics.waiting, metrics.running) == (0, 0)
    assert seen(metrics.latency) == ((1, 2.0) if counted == "completed" else (0, 0.0))
