"""Launches are recorded with all memory that they reach, and read back as they were."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kernel_vectors
import numpy as np
import pytest
from kernel_vectors import LAUNCHES, Recorder, load, save


class Tensor:
    """A torch tensor, as far as the recorder asks one."""

    def __init__(self, memory: np.ndarray[Any, Any], shape: tuple[int, ...], stride: tuple[int, ...], at: int) -> None:
        self._memory, self.shape, self._stride, self._at = memory, shape, stride, at

    def data_ptr(self) -> int:
        return self._memory.ctypes.data + self._at * self._memory.itemsize

    def element_size(self) -> int:
        return self._memory.itemsize

    def untyped_storage(self) -> Any:
        return SimpleNamespace(nbytes=lambda: self._memory.nbytes)

    def storage_offset(self) -> int:
        return self._at

    def stride(self) -> tuple[int, ...]:
        return self._stride

    def as_strided(self, shape: tuple[int, ...], stride: tuple[int, ...], at: int) -> Tensor:
        return Tensor(self._memory, shape, stride, at)

    def numpy(self) -> np.ndarray[Any, Any]:
        bytes_ = tuple(step * self._memory.itemsize for step in self._stride)
        return np.lib.stride_tricks.as_strided(self._memory[self._at :], self.shape, bytes_)


def test_a_launch_is_read_back_with_its_strides_and_what_it_has_written(tmp_path: Path) -> None:
    memory = np.arange(20, dtype=np.float32)
    view = Tensor(memory, (2, 3), (8, 1), 2)
    recorder = Recorder()
    after = recorder.before("m", "k", (2, 1), {"x_ptr": view, "stride": np.int64(8), "none": None})
    view.numpy()[1, 2] = -np.inf
    after()
    save(tmp_path / "v.npz", recorder.launches, recorder.arrays)
    (launch,), arrays = load(tmp_path / "v.npz")
    assert (launch.module, launch.kernel, launch.grid) == ("m", "k", [2, 1])
    assert launch.values == {"stride": 8, "none": None}
    tensor = launch.tensors["x_ptr"]
    assert (tensor.shape, tensor.stride) == ([2, 3], [8, 1])
    assert arrays[tensor.before].tolist() == list(range(2, 20)), "to the end of the memory it is a part of"
    expected = arrays[tensor.before].copy()
    expected[10] = -np.inf
    assert (tensor.after(arrays) == expected).all()


def test_the_first_second_and_fourth_launch_that_writes_is_kept() -> None:
    recorder = Recorder()
    memory = np.zeros(1, np.int32)
    for number in range(2 ** (LAUNCHES + 2)):
        after = recorder.before("m", "k", (1,), {"x_ptr": Tensor(memory, (1,), (1,), 0)})
        memory[0] += number % 2
        after()
    kept = [launch.tensors["x_ptr"] for launch in recorder.launches]
    assert len(kept) == LAUNCHES
    written = [int(tensor.after(recorder.arrays)[0]) for tensor in kept]
    assert written == [2**n for n in range(LAUNCHES)]


def test_largelaunches_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_vectors, "MOST_BYTES", 100)
    recorder = Recorder()
    memory = np.random.default_rng(0).integers(0, 2**31, 1000)
    after = recorder.before("m", "k", (1,), {"x_ptr": Tensor(memory, (1000,), (1,), 0)})
    memory[0] += 1
    after()
    assert recorder.launches == []


def test_tables_at_addresses_are_recorded_by_their_content(tmp_path: Path) -> None:
    source, to = np.arange(12, dtype=np.int32), np.zeros(12, np.int32)
    given: dict[str, np.ndarray[Any, Any]] = {
        "batch_idx_to_req_idx": np.array([2, 0], np.int32),
        "src_block_table_ptrs": np.array([source.ctypes.data], np.uint64),
        "dst_block_table_ptrs": np.array([to.ctypes.data], np.uint64),
        "block_table_strides": np.array([4], np.int64),
    }
    tensors: dict[str, Any] = {name: Tensor(array, array.shape, (1,), 0) for name, array in given.items()}
    recorder = Recorder()
    after = recorder.before("m", "_gather_block_tables_kernel", (1, 2), tensors | {"num_reqs": 2})
    to[:8] = [*source[8:], *source[:4]]
    after()
    save(tmp_path / "v.npz", recorder.launches, recorder.arrays)
    (launch,), arrays = load(tmp_path / "v.npz")
    assert launch.tensors.keys() == {"batch_idx_to_req_idx", "block_table_strides"}
    src, dst = launch.tables["src_block_table_ptrs"], launch.tables["dst_block_table_ptrs"]
    assert arrays[src.before[0]].tolist() == list(range(12))
    assert src.after == src.before
    assert arrays[dst.before[0]].tolist() == [0] * 8
    assert arrays[dst.after[0]].tolist() == [8, 9, 10, 11, 0, 1, 2, 3]
