from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pipesd_core.errors import ModelLoadError
from pipesd_core.protocol.hf_vocabulary import pieces


def tokenizer(names: list[str], added: set[int]) -> Any:
    vocabulary = {name: token for token, name in enumerate(names)}
    return SimpleNamespace(get_vocab=lambda: vocabulary, added_tokens_decoder=dict.fromkeys(added))


def test_bytes_names_and_padding() -> None:
    known = tokenizer(["<|end|>", "Ġdef", "Ċ", "Ã©", "<tool é>"], {0, 4})
    assert list(pieces(known, 8)) == [
        (0, b"<|end|>"),
        (1, b" def"),
        (2, b"\n"),
        (3, "é".encode()),
        (4, "<tool é>".encode()),
    ]


def test_another_kind_of_tokenizer_is_refused() -> None:
    with pytest.raises(ModelLoadError, match="byte-level BPE"):
        list(pieces(tokenizer(["▁def"], set()), 1))
