"""The draft of SmolLM2: some of its layers, trained anew, between its own embedding and its own head.

The repository ships the layers (draft_layers.gguf); embedding, tokenizer and sizes come from the package. The result is
an ordinary llama model with the target's vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from examples.smollm2.gguf_file import EMBEDDING, TYPES, GgufFile, Tensor, write

LAYERS: Final = Path(__file__).parent / "draft_layers.gguf"
NAME: Final = "SmolLM2-135M-Instruct-draft"


def assemble(source: GgufFile, layers: GgufFile, out: Path) -> None:
    """Write the draft, each tensor in the type that it is stored in."""
    count = 1 + max(int(name.split(".")[1]) for name in layers.names if name.startswith("blk."))
    numbers = {"llama.block_count": count}
    write(out, source, _tensors(source, layers), file_type=TYPES["Q8_0"][1], name=NAME, numbers=numbers)


def _tensors(source: GgufFile, layers: GgufFile) -> Iterator[Tensor]:
    yield source.stored(EMBEDDING)
    for name in layers.names:
        yield layers.stored(name)
