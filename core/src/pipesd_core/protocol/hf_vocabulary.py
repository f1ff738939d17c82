"""The fingerprint of a Hugging Face tokenizer's vocabulary, equal to that of the same vocabulary in a GGUF file.

What llama.cpp calls a token's piece: of an added token, special or not, its text; of every other one its bytes, which
byte-level BPE spells with one printable character per byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipesd_core.errors import ModelLoadError


def pieces(tokenizer: Any, n_vocab: int) -> Iterator[tuple[int, bytes]]:
    """(id, bytes) of every id that the tokenizer can produce, ascending; what `fingerprint` takes.

    Args:
        tokenizer: transformers' fast tokenizer over byte-level BPE (Qwen, Llama 3 and most newer families).
        n_vocab: ids of the model; those that the tokenizer does not know are padding.

    Raises ModelLoadError for another kind of tokenizer.
    """
    decode = {character: byte for byte, character in _byte_characters().items()}
    added = tokenizer.added_tokens_decoder
    names = {token: name for name, token in tokenizer.get_vocab().items()}
    for token in range(n_vocab):
        name = names.get(token)
        if name is None:
            continue
        if token in added:
            yield token, name.encode()
            continue
        try:
            yield token, bytes(decode[character] for character in name)
        except KeyError:
            raise ModelLoadError(
                f"token {token} ({name!r}) is not spelt as byte-level BPE; only such vocabularies are supported"
            ) from None


def _byte_characters() -> dict[int, str]:
    """The byte table of GPT-2: printable bytes are themselves, the others follow from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in table)
    return table | {byte: chr(256 + n) for n, byte in enumerate(others)}
