"""Llama GGUF files read and written: tensors as float32, metadata carried over.

Needs numpy and gguf. The order of rows in Q and K is llama.cpp's throughout; hugging_face.py has the other one.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.float32]
Quantization = gguf.GGMLQuantizationType

TYPES: Final = {
    "F32": (Quantization.F32, gguf.LlamaFileType.ALL_F32),
    "F16": (Quantization.F16, gguf.LlamaFileType.MOSTLY_F16),
    "Q8_0": (Quantization.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "Q4_0": (Quantization.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
}
"""By name: the type of the matrices, and what the file calls itself."""
EMBEDDING: Final = "token_embd.weight"
OUTPUT_NORM: Final = "output_norm.weight"


@dataclass(frozen=True)
class Tensor:
    """A tensor as a GGUF file holds it: numbers, or the bytes of quantised blocks."""

    name: str
    data: npt.NDArray[Any]
    kind: gguf.GGMLQuantizationType


def encoded(name: str, weights: Weights, matrices: str) -> Tensor:
    """Weights in one of `TYPES`; a norm stays F32, as llama.cpp wants it."""
    kind = Quantization.F32 if weights.ndim == 1 else TYPES[matrices][0]
    return Tensor(name, gguf.quantize(np.ascontiguousarray(weights), kind), kind)


class GgufFile:
    """A GGUF file that is read from. Tensors are decoded one at a time, when they are asked for."""

    def __init__(self, path: Path) -> None:
        self._reader = gguf.GGUFReader(path)
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}

    @property
    def names(self) -> list[str]:
        """Of the tensors, in the order of the file."""
        return list(self._tensors)

    @property
    def fields(self) -> dict[str, Any]:
        """The metadata as gguf keeps it, by key."""
        return dict(self._reader.fields)

    def value(self, key: str) -> Any:
        """A piece of metadata. Raises KeyError."""
        return self._reader.fields[key].contents()

    def weights(self, name: str) -> Weights:
        """One tensor as float32, of shape (rows, columns), or (columns,). Raises KeyError."""
        tensor = self._tensors[name]
        shape = tuple(int(size) for size in reversed(tensor.shape))
        values: Weights = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        return values.reshape(shape)

    def stored(self, name: str) -> Tensor:
        """One tensor as the file has it. Raises KeyError."""
        tensor = self._tensors[name]
        return Tensor(name, tensor.data, tensor.tensor_type)


def write(
    out: Path,
    like: GgufFile,
    tensors: Iterable[Tensor],
    *,
    file_type: gguf.LlamaFileType,
    name: str,
    numbers: dict[str, int] | None = None,
) -> None:
    """Write a llama model with the metadata of another and these tensors; `out` appears only when it is complete.

    name: `general.name`. numbers: metadata that differs (uint32).
    """
    with writing(out) as writer:
        _copy_metadata(writer, like, {"general.name": name, **(numbers or {})})
        writer.add_file_type(file_type)
        for tensor in tensors:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.kind)


@contextmanager
def writing(out: Path) -> Iterator[gguf.GGUFWriter]:
    """A llama file that is added to within the `with` statement, and appears only when it is complete."""
    handle, temporary = tempfile.mkstemp(prefix=f"{out.name}.", suffix=".tmp", dir=out.parent)
    os.close(handle)
    try:
        writer = gguf.GGUFWriter(temporary, "llama")
        yield writer
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner may read
        os.replace(temporary, out)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _copy_metadata(writer: gguf.GGUFWriter, like: GgufFile, changed: dict[str, str | int]) -> None:
    for key, field in like.fields.items():
        if key.startswith("GGUF.") or key in ("general.architecture", "general.file_type"):
            continue  # the writer's own
        value = changed.get(key, field.contents())
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_key_value(key, value, gguf.GGUFValueType.ARRAY, sub_type=field.types[-1])
        else:
            writer.add_key_value(key, value, field.types[0])
