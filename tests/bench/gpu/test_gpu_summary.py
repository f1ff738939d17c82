"""The summary says each part's state, its reason and its lines."""

from __future__ import annotations

import msgspec

from bench.gpu.machine import Machine
from bench.gpu.part import FAILED, OUT_OF_TIME, PASSED, SKIPPED, Outcome
from bench.gpu.summary import succeeded, summary

HERE = Machine(
    "2026-12-01T00:00:00Z", "3.11", "Linux", 16, (0.0, 0.0, 0.0), {"vllm": "0.32.0"}, "abc", {"name": "NVIDIA H200"}
)
OUTCOME = Outcome("vectors", "kernels", PASSED, 12.3, "61 launches equal", {"lines": ["a line"]})


def test_everything_is_in_it() -> None:
    text = summary(HERE, [OUTCOME, msgspec.structs.replace(OUTCOME, name="graphs", state=SKIPPED, said="no GPU")])
    for said in ("NVIDIA H200", "vllm 0.32.0", "abc", "PASSED", "12 s", "61 launches equal", "a line", "no GPU"):
        assert said in text
    assert "no GPU" in summary(msgspec.structs.replace(HERE, gpu={}), [])


def test_a_part_that_failed_or_ran_out_of_time_is_no_success_and_a_skipped_one_no_failure() -> None:
    states = {state: succeeded([msgspec.structs.replace(OUTCOME, state=state)]) for state in (PASSED, SKIPPED)}
    assert states == {PASSED: True, SKIPPED: True}
    assert not any(succeeded([msgspec.structs.replace(OUTCOME, state=state)]) for state in (FAILED, OUT_OF_TIME))
