"""The test bed runs model runner V2 as it is: its numpy kernels are the interpreted ones, its answers are V1's."""

from __future__ import annotations

import json
from typing import Any

import pytest
import v2_bed
from test_vllm_draw import run_script

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]


def test_each_numpy_kernel_writes_what_the_interpreted_one_writes() -> None:
    assert run_script("bed_check.py", 500, **v2_bed.environ(shadow=True)).endswith("equal")


def ordinary(bed: bool) -> Any:
    environ = v2_bed.environ() if bed else {"PYTHONPATH": v2_bed.environ()["PYTHONPATH"]}
    return json.loads(run_script("ordinary_check.py", 250, **environ).splitlines()[-1])


@pytest.mark.full
def test_ordinary_requests_get_the_same_answers_on_both_runners() -> None:
    v1, v2 = ordinary(bed=False), ordinary(bed=True)
    assert v1.pop("runner") == "vllm.v1.worker.gpu_model_runner"
    assert v2.pop("runner") == "vllm.v1.worker.gpu.model_runner"
    for ours, theirs in zip(v2.pop("logprobs"), v1.pop("logprobs"), strict=True):
        assert ours == pytest.approx(theirs, abs=2e-3)
    assert v1 == v2
