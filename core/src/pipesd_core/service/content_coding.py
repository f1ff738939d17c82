"""Content codings of request bodies (RFC 9110, 8.4): none or gzip, decoded as it comes and within a bound."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Final

from pipesd_core.errors import InvalidRequest

SUPPORTED: Final = "gzip"
"""What `Accept-Encoding` of a refusal names; no coding at all is always taken."""
MAX_MEMBERS: Final = 16
"""Most parts of a gzip file. One that is empty takes 20 bytes, and time."""
_GZIP: Final = 16 + zlib.MAX_WBITS


class UnsupportedCoding(InvalidRequest):
    status = 415

    def headers(self) -> dict[str, str]:
        return {"accept-encoding": SUPPORTED}


class Plain:
    """A body without a coding."""

    def decode(self, part: bytes, most: int) -> bytes:  # noqa: ARG002 - as Gzip
        """The next part of the body, at most `most` bytes of it where a part may grow."""
        return part

    def finish(self) -> None:
        """Check that the body is whole."""


class Gzip:
    """A body in gzip."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP)
        self._members = 1
        self._begun = False

    def decode(self, part: bytes, most: int) -> bytes:
        """The next part of the body, at most `most` bytes; the rest is lost. Raises InvalidRequest."""
        decoded: list[bytes] = []
        while part and most > 0:
            if self._member.eof:
                self._next_member()
            try:
                decoded.append(self._member.decompress(part, most))
            except zlib.error as error:
                raise InvalidRequest(f"the body is not gzip, as Content-Encoding says: {error}") from None
            self._begun = True
            most -= len(decoded[-1])
            part = self._member.unused_data if self._member.eof else b""
        return b"".join(decoded)

    def finish(self) -> None:
        """Check that the body is whole. Raises InvalidRequest."""
        if self._begun and not self._member.eof:
            raise InvalidRequest("the body in gzip is cut off")

    def _next_member(self) -> None:
        self._members += 1
        if self._members > MAX_MEMBERS:
            raise InvalidRequest(f"the body in gzip has more than {MAX_MEMBERS} members, the limit")
        self._member = zlib.decompressobj(_GZIP)


def decoder_of(content_encoding: Iterable[str]) -> Plain | Gzip:
    """The decoder for these values of `Content-Encoding`. Raises UnsupportedCoding."""
    codings = [coding.strip().lower() for value in content_encoding for coding in value.split(",")]
    codings = [coding for coding in codings if coding not in ("", "identity")]
    if not codings:
        return Plain()
    if codings in (["gzip"], ["x-gzip"]):  # the same, RFC 9110, 8.4.1.3
        return Gzip()
    raise UnsupportedCoding(
        f"the Content-Encoding {', '.join(codings)[:128]!r} is not supported: send the body as it is, or in {SUPPORTED}"
    )
