"""The test bed runs model runner V2 as it is: its numpy kernels are the interpreted ones, its answers are V1's."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import v2_bed
from kernel_vectors import load, save
from test_vllm_draw import run_script
from vllm_server import PROGRAM

from bench.gpu.parts import VECTORS, VECTORS_PART, parts

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]


def test_each_numpy_kernel_writes_what_the_interpreted_one_writes() -> None:
    assert run_script("bed_check.py", 500, **v2_bed.environ(shadow=True)).endswith("equal")


def repeated(file: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """The launches of a file by the interpreted kernels, as `python -m bench.gpu --bed` has it done."""
    (part,) = parts(None, "", file, bed=True, only=[VECTORS_PART])
    command = [str(PROGRAM.with_name("python")), *part.command[1:]]
    environ = os.environ | dict(part.environ) | {"PIPESD_GPU_FIGURES": str(tmp_path / "figures.json")}
    return subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, env=environ)


def test_recorded_launches_are_repeated_and_one_that_writes_something_else_is_named(tmp_path: Path) -> None:
    launches, arrays = load(VECTORS)
    kept = [next(one for one in launches if one.kernel == name) for name in ("_ranks_kernel", "_post_update_kernel")]
    save(tmp_path / "right.npz", kept, arrays)
    ran = repeated(tmp_path / "right.npz", tmp_path)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.startswith("2 launches of 2 kernels equal on cpu")
    rank = kept[0].tensors["output_ptr"]
    wrong = arrays | {"wrong": arrays[rank.values] + 1}
    tensors = kept[0].tensors | {"output_ptr": dataclasses.replace(rank, values="wrong")}
    save(tmp_path / "wrong.npz", [dataclasses.replace(kept[0], tensors=tensors)], wrong)
    ran = repeated(tmp_path / "wrong.npz", tmp_path)
    assert ran.returncode == 1
    assert "1 differences, the first: _ranks_kernel, output_ptr" in ran.stderr


def test_all_recorded_launches_are_those_of_the_interpreted_kernels(tmp_path: Path) -> None:
    ran = repeated(VECTORS, tmp_path)
    assert ran.returncode == 0, ran.stderr[-2000:]


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
