"""The recorded launches of V2's kernels again, by the real Triton kernels on this machine's device.

The file's outputs are those of the test bed, where each kernel's numpy function has been compared with the interpreted
kernel. Whole numbers must be equal, others within TOLERANCE (relative, and absolute): a GPU's log and exp are rounded
otherwise than numpy's.
"""

from __future__ import annotations

import argparse
import importlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from kernel_vectors import Array, Launch, load

from bench.gpu.part import write_figures

TOLERANCE: Final = 1e-4


def difference(expected: Array, got: Array) -> str | None:
    """What is different; None: nothing that counts."""
    if expected.dtype.kind != "f":
        wrong = expected != got
        if not wrong.any():
            return None
    else:
        wrong = ~np.isclose(expected, got, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
        if not wrong.any():
            return None
    at = tuple(int(place) for place in np.argwhere(wrong)[0]) if wrong.ndim else ()
    return f"{int(wrong.sum())} of {wrong.size} differ, first at {at}: {got[at]} instead of {expected[at]}"


def repeat(launch: Launch, arrays: Mapping[str, Array], device: str) -> list[str]:
    """Launch a kernel with what it was given; what it wrote that is not what was written then, by argument."""
    import torch

    kept = []  # memory that is reached by address only
    arguments = dict(launch.values)
    for name, tensor in launch.tensors.items():
        flat = torch.from_numpy(arrays[tensor.before].copy()).to(device)
        arguments[name] = flat.as_strided(tensor.shape, tensor.stride)
    for name, tables in launch.tables.items():
        places = [torch.from_numpy(arrays[before].copy()).to(device) for before in tables.before]
        kept.append((name, places))
        arguments[name] = torch.tensor([place.data_ptr() for place in places], dtype=torch.uint64, device=device)
    kernel = getattr(importlib.import_module(launch.module), launch.kernel)
    kernel[tuple(launch.grid)](**arguments)
    differences = []
    for name, tensor in launch.tensors.items():
        expected = torch.from_numpy(tensor.after(arrays)).as_strided(tensor.shape, tensor.stride).numpy()
        if said := difference(expected, arguments[name].cpu().numpy()):
            differences.append(f"{launch.kernel}, {name}: {said}")
    for name, places in kept:
        for after, place in zip(launch.tables[name].after, places, strict=True):
            if said := difference(arrays[after], place.cpu().numpy()):
                differences.append(f"{launch.kernel}, {name}: {said}")
    return differences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--device", default="cuda", help="cpu: the kernels are interpreted, on the test bed")
    args = parser.parse_args()
    left_out: frozenset[str] = frozenset()
    if args.device == "cpu":
        import v2_bed

        v2_bed.install()
        v2_bed.KERNELS.clear()
        left_out = v2_bed.NOT_INTERPRETED
        import vllm.v1.worker.cpu.shm  # noqa: F401  before the runner's modules, as in a CPU worker
    launches, arrays = load(args.file)
    equal: Counter[str] = Counter()
    differences: list[str] = []
    for launch in launches:
        if launch.kernel in left_out:
            continue
        try:
            found = repeat(launch, arrays, args.device)
        except Exception as error:  # a kernel that cannot be launched is a finding; the others are tried as well
            found = [f"{launch.kernel}: {type(error).__name__}: {error}"]
        equal[launch.kernel] += not found
        differences += found
    lines = [f"not interpreted: {name}" for name in sorted(left_out)] + differences[:40]
    write_figures({"equal": equal, "differences": differences, "left_out": sorted(left_out), "lines": lines})
    said = f"{equal.total()} launches of {len(equal)} kernels equal on {args.device}, tolerance {TOLERANCE:g}"
    if differences:
        raise SystemExit(f"{said}; {len(differences)} differences, the first: {differences[0]}")
    print(said)


if __name__ == "__main__":
    main()
