"""Bodies in gzip: whole, in pieces, in members, damaged, and too large; over HTTP in test_http_semantics."""

from __future__ import annotations

import gzip
import zlib

import pytest

from pipesd_core.errors import InvalidRequest
from pipesd_core.service.content_coding import MAX_MEMBERS, Gzip, UnsupportedCoding, decoder_of

TEXT = b'{"prompt": "' + bytes(range(32, 127)) * 20 + b'"}'


def decoded(data: bytes, piece: int, most: int = 10**6) -> bytes:
    decoder, out = Gzip(), b""
    for at in range(0, len(data), piece):
        out += decoder.decode(data[at : at + piece], most - len(out))
    decoder.finish()
    return out


@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_in_pieces_and_members(piece: int) -> None:
    assert decoded(gzip.compress(TEXT), piece) == TEXT
    assert decoded(b"".join(gzip.compress(TEXT[at : at + 200]) for at in range(0, len(TEXT), 200)), piece) == TEXT
    assert decoded(b"", piece) == b""


@pytest.mark.parametrize("piece", [1, 50, 10**7])
def test_no_more_than_is_asked_for(piece: int) -> None:
    bomb = gzip.compress(bytes(10**6))
    decoder, out = Gzip(), b""
    for at in range(0, len(bomb), piece):
        out += decoder.decode(bomb[at : at + piece], 1000 - len(out))
        if len(out) == 1000:
            break
    assert out == bytes(1000)


def test_members_are_bounded() -> None:
    """Each takes time even if it is empty."""
    assert decoded(gzip.compress(b"") * MAX_MEMBERS, 9) == b""
    with pytest.raises(InvalidRequest, match=f"more than {MAX_MEMBERS} members"):
        decoded(gzip.compress(b"") * (MAX_MEMBERS + 1), 9)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (TEXT, "not gzip"),
        (zlib.compress(TEXT), "not gzip"),
        (gzip.compress(TEXT, mtime=0)[:-1], "cut off"),
        (gzip.compress(TEXT, mtime=0)[:5], "cut off"),
        (gzip.compress(TEXT, mtime=0)[:-8] + bytes(8), "not gzip"),
        (gzip.compress(TEXT, mtime=0) + b"trailing", "not gzip"),
    ],
)
@pytest.mark.parametrize("piece", [1, 10_000])
def test_damaged(data: bytes, says: str, piece: int) -> None:
    with pytest.raises(InvalidRequest, match=says):
        decoded(data, piece)


def test_codings() -> None:
    assert decoder_of([]).decode(b"x", 9) == b"x"
    assert decoder_of(["identity", ""]).decode(b"x", 9) == b"x"
    assert isinstance(decoder_of(["GZIP"]), Gzip)
    assert isinstance(decoder_of(["identity, x-gzip"]), Gzip)
    for codings in (["br"], ["gzip, gzip"], ["gzip", "br"], ["deflate"]):
        with pytest.raises(UnsupportedCoding, match="in gzip") as refused:
            decoder_of(codings)
        assert refused.value.headers() == {"accept-encoding": "gzip"}
