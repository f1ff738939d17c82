from __future__ import annotations

from pipesd_vllm.step_times import StepTimes


def test_times_add_up_until_they_are_taken() -> None:
    times = StepTimes()
    times.watch("a")
    times.add({"a": (1, 2), "b": (7, 7)})
    times.add({"a": [10, 20]})
    assert times.take("a") == (11, 22)
    assert times.take("a") == (0, 0)


def test_only_what_is_watched_is_kept() -> None:
    times = StepTimes()
    times.add({"a": (1, 2)})
    assert len(times) == 0
    times.watch("a")
    times.forget("a")
    times.add({"a": (1, 2)})
    times.forget("a")
    assert len(times) == 0
