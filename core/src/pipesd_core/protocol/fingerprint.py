"""Vocabulary fingerprint (architecture §4): equal for models that mean the same bytes by the same token ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def fingerprint(pieces: Iterable[tuple[int, bytes]]) -> bytes:
    """16 bytes that are equal iff the vocabularies are.

    Whether a token is special is not in it: converters to GGUF and llama.cpp itself guess that from a token's spelling
    (Qwen2.5's `<|fim_prefix|>` is not special in its tokenizer, but control in every GGUF file), and drafts are ids.

    Args:
        pieces: (id, bytes) of every id that the tokenizer can produce, in ascending order of id. Padding ids are left
            out by the caller: Qwen2.5 0.5B and 7B differ in padding only and must match.
    """
    digest = hashlib.blake2b(digest_size=16, person=b"pipesd-vocab")
    for token, piece in pieces:
        digest.update(token.to_bytes(4, "little") + len(piece).to_bytes(4, "little") + piece)
    return digest.digest()
