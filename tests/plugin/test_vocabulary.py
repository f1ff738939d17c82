from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from pipesd_gateway.exceptions import ModelLoadError
from pipesd_vllm.vocabulary import pieces


@dataclass
class Added:
    special: bool


def tokenizer(names: list[str], added: dict[int, Added]) -> Any:
    vocabulary = {name: token for token, name in enumerate(names)}
    return SimpleNamespace(get_vocab=lambda: vocabulary, added_tokens_decoder=added)


def test_bytes_names_and_padding() -> None:
    known = tokenizer(["<|end|>", "Ġdef", "Ċ", "Ã©", "<tool>"], {0: Added(True), 4: Added(False)})
    assert list(pieces(known, 8)) == [
        (0, b"<|end|>", True),
        (1, b" def", False),
        (2, b"\n", False),
        (3, "é".encode(), False),
        (4, b"<tool>", False),
    ]


def test_another_kind_of_tokenizer_is_refused() -> None:
    with pytest.raises(ModelLoadError, match="byte-level BPE"):
        list(pieces(tokenizer(["▁def"], {}), 1))
