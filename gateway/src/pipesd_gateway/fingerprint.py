"""Vocabulary fingerprint (architecture §4): do two models mean the same bytes by the same token ids?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def fingerprint(pieces: Iterable[tuple[int, bytes, bool]]) -> bytes:
    """16 bytes that are equal iff the vocabularies are.

    Args:
        pieces: (id, bytes, special) of every id that the tokenizer can produce, in ascending order of id. Padding ids
            are left out by the caller: Qwen2.5 0.5B and 7B differ in padding only and must match.
    """
    digest = hashlib.blake2b(digest_size=16, person=b"pipesd-vocab")
    for token, piece, special in pieces:
        digest.update(token.to_bytes(4, "little") + len(piece).to_bytes(4, "little") + bytes([special]) + piece)
    return digest.digest()
