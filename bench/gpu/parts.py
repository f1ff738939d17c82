"""The parts: what is run, with which settings, and for how long at most."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Final

from bench.gpu.machine import ROOT
from bench.gpu.part import Part

DEMO_TARGET: Final = ROOT / "examples" / "demo_pair" / "target"
SCRIPTS: Final = ROOT / "tests" / "vllm"
BED: Final = SCRIPTS / "bed"
VECTORS: Final = BED / "vectors.npz"
SOURCES: Final = tuple(ROOT / name / "src" for name in ("core", "gateway", "edge_agent", "vllm_plugin"))
LIMIT_S: Final = 590.0
"""For all parts together: below the ten minutes for which a machine is lent."""

VECTORS_PART: Final = "vectors"
EQUALITY: Final = "equality"
GRAPHS: Final = "graphs"
TRAFFIC: Final = "traffic"
NAMES: Final = (VECTORS_PART, EQUALITY, GRAPHS, TRAFFIC)

V2: Final = {"VLLM_USE_V2_MODEL_RUNNER": "1"}
ON_THE_BED: Final = {"PIPESD_V2_BED": "1", "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
LOOPS: Final = {"synchronous": False, "asynchronous": True}
FULL_FLOAT32: Final = {"TRITON_F32_DEFAULT": "ieee", "NVIDIA_TF32_OVERRIDE": "0"}
"""Or a GPU multiplies 32-bit numbers with ten bits of them, and rows of one step and of another differ by more than
rounding: the tokens of a session could be others by that alone."""
SHARE_OF_MEMORY: Final = 0.1
"""Of the GPU: the engines of several parts are on it at once. Their caches have a size in bytes, far below."""


def parts(lacks: str | None, model: str, vectors: Path, *, bed: bool, only: Collection[str]) -> list[Part]:
    """The parts that are asked for.

    Args:
        lacks: why nothing that needs a GPU can run here, or None. With `bed` it does not matter.
        model: of the traffic and the graphs.
        bed: run what can be run on the test bed instead, on a CPU.
    """
    lacks = None if bed else lacks
    chosen = []
    if VECTORS_PART in only:
        chosen.append(_vectors(lacks, vectors, bed=bed))
    if EQUALITY in only:
        chosen += [_equality(lacks, loop, eager=eager, bed=bed) for eager in (True, False) for loop in LOOPS]
    if GRAPHS in only:
        chosen.append(_graphs(lacks, model, bed=bed))
    if TRAFFIC in only:
        chosen.append(_traffic(lacks, model, bed=bed))
    return chosen


def _environ(more: dict[str, str]) -> dict[str, str]:
    paths = [str(path) for path in (*SOURCES, ROOT, BED, SCRIPTS)]
    given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {"PYTHONPATH": os.pathsep.join(paths + given)} | V2 | more


def _vectors(lacks: str | None, file: Path, *, bed: bool) -> Part:
    if lacks is None and not file.exists():
        lacks = f"{file} is not there: make it where vllm-cpu is (docs/gpu_box.md)"
    return Part(
        name=VECTORS_PART,
        what=f"{'interpreted' if bed else 'real'} Triton kernels against recorded launches",
        command=[sys.executable, "-m", "bench.gpu.vectors", str(file), "--device", "cpu" if bed else "cuda"],
        environ=_environ({"OMP_NUM_THREADS": "1"} if bed else {}),
        limit_s=150,
        lacks=lacks,
    )


def _equality(lacks: str | None, loop: str, *, eager: bool, bed: bool) -> Part:
    if bed and not eager:
        lacks = "the test bed has no CUDA graphs"
    options: dict[str, object] = {"enforce_eager": eager}
    environ: dict[str, str] = {}
    if bed:
        environ |= ON_THE_BED | ({"PIPESD_V2_BED_ASYNC": "1"} if LOOPS[loop] else {})
    else:
        environ |= FULL_FLOAT32
        options |= {"async_scheduling": LOOPS[loop], "gpu_memory_utilization": SHARE_OF_MEMORY}
        options |= {"attention_backend": "TRITON_ATTN"}  # FlashAttention has no float32
    return Part(
        name=f"{EQUALITY}-{loop}-{'eager' if eager else 'graphs'}",
        what=f"sessions write what ordinary requests write: float32, {loop}, {'eager' if eager else 'CUDA graphs'}",
        command=[sys.executable, str(SCRIPTS / "v2_identity_check.py")],
        environ=_environ(environ | {"PIPESD_ENGINE_OPTIONS": json.dumps(options)}),
        limit_s=220,
        lacks=lacks,
    )


def _graphs(lacks: str | None, model: str, *, bed: bool) -> Part:
    options: dict[str, object] = {}
    if not bed:
        options = {"model": model, "dtype": "bfloat16", "gpu_memory_utilization": SHARE_OF_MEMORY}
        options |= {"kv_cache_memory_bytes": 4 * 2**30}
    return Part(
        name=GRAPHS,
        what="full CUDA graphs for 1 and 1 + K tokens a request, and the steps that use them",
        command=[sys.executable, "-m", "bench.gpu.graphs", *(("--bed",) if bed else ())],
        environ=_environ((ON_THE_BED if bed else {}) | {"PIPESD_ENGINE_OPTIONS": json.dumps(options)}),
        limit_s=220,
        lacks=lacks,
    )


def _traffic(lacks: str | None, model: str, *, bed: bool) -> Part:
    own: tuple[str, ...]
    if bed:
        own = ("--dtype", "float32", "--streams", "1", "2", "--tokens", "8", "--pairs", "1", "--block-size", "32")
        own += ("--enforce-eager",)
    else:
        own = ("--kv-cache-memory-bytes", str(16 * 2**30), "--gpu-memory-utilization", "0.4")
    command = [sys.executable, "-m", "bench.gpu.traffic", "--model", model]
    return Part(
        name=TRAFFIC,
        what="ordinary requests on stock vLLM and with the plugin: plugin over stock",
        command=[*command, *own],
        environ=_environ((ON_THE_BED | {"VLLM_CPU_KVCACHE_SPACE": "1"}) if bed else {}),
        limit_s=330,
        alone=True,
        lacks=lacks,
    )
