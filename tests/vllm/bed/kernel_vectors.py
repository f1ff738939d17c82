"""Launches of V2's kernels in a file, with what each was given and has written: made on the bed, read by `bench.gpu`.

A launch is kept with all memory that its arguments reach, so that it can be repeated on another device by the real
kernel. Arrays that several launches share are stored once.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from kernel_table import numbers_at
from numpy.typing import NDArray

Array = NDArray[Any]

LAUNCHES: Final = 4
"""Of each kernel, that a file has: the first that wrote something, the second, the fourth, and so on."""
MOST_BYTES: Final = 64_000
"""Of a launch in the file, compressed: of the kernels that read logits, launches of up to four rows."""
_MANIFEST: Final = "launches"


@dataclass(frozen=True)
class Tensor:
    """An argument in memory. before: name of the flat array from its first element on; the kernel sees it with shape
    and stride, in elements. written, values: names of the places in it that the kernel changed, and of what is there
    then; "" where it changed nothing."""

    shape: list[int]
    stride: list[int]
    before: str
    written: str = ""
    values: str = ""

    def after(self, arrays: Mapping[str, Array]) -> Array:
        """What is there after the launch."""
        left = arrays[self.before].copy()
        if self.written:
            left[arrays[self.written]] = arrays[self.values]
        return left


@dataclass(frozen=True)
class Tables:
    """An argument that is an array of addresses. before, after: names of the arrays of 32-bit numbers there."""

    before: list[str]
    after: list[str]


@dataclass(frozen=True)
class Launch:
    """One launch. values: the arguments that are no tensors."""

    module: str
    kernel: str
    grid: list[int]
    values: dict[str, Any]
    tensors: dict[str, Tensor]
    tables: dict[str, Tables] = field(default_factory=dict)


def _rows_below(indices: Array) -> int:
    return int(indices.max(initial=0)) + 1


def _tables_of_gathering(grid: Any, given: dict[str, Array]) -> dict[str, int]:
    rows = _rows_below(given["batch_idx_to_req_idx"][: int(given["num_reqs"])])
    return {"src_block_table_ptrs": rows, "dst_block_table_ptrs": int(grid[1])}


def _tables_of_slots(grid: Any, given: dict[str, Array]) -> dict[str, int]:
    return {"block_table_ptrs": _rows_below(given["idx_mapping"][: grid[1] - 1])}


ADDRESSES: Final[dict[str, Callable[[Any, dict[str, Array]], dict[str, int]]]] = {
    "_gather_block_tables_kernel": _tables_of_gathering,
    "_compute_slot_mappings_kernel": _tables_of_slots,
}
"""Kernels that are given addresses, and how many rows of `block_table_strides` numbers are reached at each."""


class Recorder:
    """Launches as they happen, and their arrays by name.

    A launch is recorded in two calls, because what a kernel writes to is there before it:

        after = recorder.before(module, kernel, grid, arguments)
        ... the kernel ...
        after()
    """

    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}
        self.launches: list[Launch] = []
        self._seen: Counter[str] = Counter()

    def before(self, module: str, kernel: str, grid: Any, arguments: dict[str, Any]) -> Callable[[], None]:
        """Copy what a kernel is given; the function that is returned copies what it has written."""
        if arguments.get("MULTI_GROUP"):
            raise NotImplementedError(f"{kernel} with several groups of KV caches is not recorded")
        tensors = {name: value for name, value in arguments.items() if hasattr(value, "data_ptr")}
        values = {name: _plain(value) for name, value in arguments.items() if name not in tensors}
        places = self._places(kernel, grid, arguments)
        given = {name: _memory(value) for name, value in tensors.items() if name not in places}
        tables = {name: [place.copy() for place in found] for name, found in places.items()}

        def after() -> None:
            left = {name: _memory(tensors[name]) for name in given}
            tables_left = {name: [place.copy() for place in found] for name, found in places.items()}
            written = [name for name in given if not _same(given[name], left[name])]
            if not written and all(_all_same(tables[name], tables_left[name]) for name in tables):
                return
            arrays: dict[str, Array] = {}
            kept = {name: _tensor(arrays, tensors[name], given[name], left[name]) for name in given}
            addresses = {
                name: Tables([_named(arrays, a) for a in tables[name]], [_named(arrays, a) for a in tables_left[name]])
                for name in tables
            }
            size = sum(len(zlib.compress(arrays[name].tobytes(), 1)) for name in arrays.keys() - self.arrays.keys())
            if size > MOST_BYTES:
                return
            self._seen[kernel] += 1
            number = self._seen[kernel]
            if number & (number - 1) or number >= 1 << LAUNCHES:
                return
            self.arrays |= arrays
            self.launches.append(Launch(module, kernel, list(map(int, grid)), values, kept, addresses))

        return after

    def _places(self, kernel: str, grid: Any, arguments: dict[str, Any]) -> dict[str, list[Array]]:
        reached = ADDRESSES.get(kernel)
        if reached is None:
            return {}
        given = {name: value.numpy() for name, value in arguments.items() if hasattr(value, "numpy")}
        given |= {name: value for name, value in arguments.items() if name not in given}
        strides = given["block_table_strides"]
        return {
            name: [
                numbers_at(address, rows * int(stride)) for address, stride in zip(given[name], strides, strict=True)
            ]
            for name, rows in reached(grid, given).items()
        }


def save(path: Path, launches: Iterable[Launch], arrays: Mapping[str, Array]) -> None:
    """Write the file."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        file.writestr(_entry(_MANIFEST), json.dumps([asdict(launch) for launch in launches]))
        for name, array in arrays.items():
            with file.open(_entry(f"{name}.npy"), "w") as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)


def load(path: Path) -> tuple[list[Launch], dict[str, Array]]:
    """The launches of a file, and its arrays by name."""
    arrays: dict[str, Array] = {}
    with zipfile.ZipFile(path) as file:
        launches = [_launch(one) for one in json.loads(file.read(_MANIFEST))]
        for name in file.namelist():
            if name != _MANIFEST:
                with file.open(name) as stream:
                    arrays[name.removesuffix(".npy")] = np.lib.format.read_array(stream, allow_pickle=False)
    return launches, arrays


def kernels(launches: Iterable[Launch]) -> Counter[str]:
    """How many launches there are of each."""
    return Counter(launch.kernel for launch in launches)


def _launch(fields: dict[str, Any]) -> Launch:
    tensors = {name: Tensor(**one) for name, one in fields["tensors"].items()}
    tables = {name: Tables(**one) for name, one in fields["tables"].items()}
    return Launch(**(fields | {"tensors": tensors, "tables": tables}))


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)  # with the date of 1980: the same launches are the same bytes
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


def _memory(tensor: Any) -> Array:
    """A copy of a tensor's memory from its first element to the end of what it is a part of: a kernel may reach it."""
    end = tensor.untyped_storage().nbytes() // tensor.element_size()
    offset = tensor.storage_offset()
    copy: Array = tensor.as_strided((end - offset,), (1,), offset).numpy().copy()
    return copy


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _tensor(arrays: dict[str, Array], tensor: Any, before: Array, after: Array) -> Tensor:
    as_bytes = (array.view(np.uint8).reshape(len(array), array.itemsize) for array in (before, after))
    written = np.flatnonzero((next(as_bytes) != next(as_bytes)).any(axis=1)).astype(np.int32)
    changed = (_named(arrays, written), _named(arrays, after[written])) if len(written) else ("", "")
    return Tensor(list(tensor.shape), list(tensor.stride()), _named(arrays, before), *changed)


def _same(a: Array, b: Array) -> bool:
    return bool(np.array_equal(a.view(np.uint8), b.view(np.uint8)))


def _all_same(a: list[Array], b: list[Array]) -> bool:
    return all(_same(*pair) for pair in zip(a, b, strict=True))


def _named(arrays: dict[str, Array], array: Array) -> str:
    """Its name, which is that of all arrays with the same content."""
    name = hashlib.sha256(f"{array.dtype}".encode() + array.tobytes()).hexdigest()[:16]
    arrays[name] = array
    return name
