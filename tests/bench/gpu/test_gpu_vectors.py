"""What counts as a difference between a kernel's outputs, and what the recorded launches are of."""

from __future__ import annotations

import numpy as np
import v2_bed
from kernel_vectors import kernels, load

from bench.gpu.parts import VECTORS
from bench.gpu.vectors import TOLERANCE, difference


def test_whole_numbers_are_equal_or_differ() -> None:
    a = np.arange(6).reshape(2, 3)
    b = a.copy()
    assert difference(a, b) is None
    b[1, 2] = 0
    assert difference(a, b) == "1 of 6 differ, first at (1, 2): 0 instead of 5"


def test_others_may_differ_by_the_tolerance() -> None:
    a = np.array([1.0, -np.inf, np.nan, 0.0], np.float32)
    assert difference(a, a * np.float32(1 + TOLERANCE / 2)) is None
    assert difference(a, a * np.float32(1 + 10 * TOLERANCE)) is not None
    assert difference(a, np.array([1.0, -1e30, np.nan, 0.0], np.float32)) is not None


def test_the_file_has_launches_of_every_kernel_of_the_bed_and_stays_small() -> None:
    launches, arrays = load(VECTORS)
    assert kernels(launches).keys() == v2_bed.KERNELS.keys()
    assert VECTORS.stat().st_size < 2**20
    for launch in launches:
        assert any(t.written for t in launch.tensors.values()) or any(
            t.before != t.after for t in launch.tables.values()
        )
        assert all(tensor.before in arrays for tensor in launch.tensors.values())
