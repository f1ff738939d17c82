"""Rules of RFC 9112 and RFC 9110 for the head of a request that h11 does not hold to. Sans-I/O.

h11 checks the syntax of lines and headers, `Content-Length` and chunks; here is what a target may be, `Host`, what
frames a body twice, versions and expectations.
"""

from __future__ import annotations

import re
from typing import Final

import h11

from pipesd_core.errors import ApiError, InvalidRequest
from pipesd_core.service.hosts import Misdirected, is_host

ALLOWED: Final = "GET, HEAD, POST, OPTIONS"
"""The methods that a server of ours knows."""
_ABSOLUTE: Final = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*)://([^/?]*)(/[^?]*)?(\?.*)?")


class RefusedHead(h11.RemoteProtocolError):
    """A request that is refused for its head. `h11` raises the base itself; `error` is what the client is told."""

    def __init__(self, error: ApiError, method: bytes) -> None:
        super().__init__(error.message, error.status)
        self.error = error
        self.method = method


class NoConnect(InvalidRequest):
    status = 405

    def headers(self) -> dict[str, str]:
        return {"allow": ALLOWED}


class UnknownExpectation(InvalidRequest):
    status = 417


class UnknownCoding(InvalidRequest):
    status = 501


class UnknownHttpVersion(InvalidRequest):
    status = 505


class ServerConnection(h11.Connection):
    """h11's connection of a server; `secure`: under TLS.

    `next_event` raises RefusedHead for what `checked_head` refuses, and gives all other requests with a target in
    origin form, or `*`.
    """

    def __init__(self, max_head_bytes: int, *, secure: bool = False) -> None:
        super().__init__(h11.SERVER, max_head_bytes)
        self.secure = secure

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        if self.their_state is h11.IDLE:
            self._drop_empty_lines()
        event = super().next_event()
        if not isinstance(event, h11.Request):
            return event
        try:
            return checked_head(event, secure=self.secure)
        except ApiError as error:
            raise RefusedHead(error, event.method) from None

    def _drop_empty_lines(self) -> None:
        """Drop what old clients send after a body (RFC 9112, 2.2): h11 takes it for a request without a first line."""
        held = self.trailing_data[0]
        if empty := len(held) - len(held.lstrip(b"\r\n")):
            self._receive_buffer.maybe_extract_at_most(empty)


def status_of(error: BaseException | None) -> int:
    """The status for a request that cannot be read, as h11 hints: 400, 431 (too large) or 501 (transfer coding)."""
    return error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400


def checked_head(request: h11.Request, *, secure: bool) -> h11.Request:
    """A request with its target in origin form and the `Host` that counts. Raises ApiError."""
    _check_version(request)
    hosts = _values(request, b"host")
    if not hosts and request.http_version != b"1.0":
        raise InvalidRequest("a request of HTTP/1.1 needs the header Host (RFC 9112, 3.2)")
    if hosts and not is_host(hosts[0].decode("latin-1")):
        raise InvalidRequest(f"the header Host is {_shown(hosts[0])}, which is no host name and port (RFC 9112, 3.2)")
    _check_framing(request)
    for expectation in _values(request, b"expect"):
        if expectation.lower() != b"100-continue":
            raise UnknownExpectation(f"the expectation {_shown(expectation)} is unknown: only 100-continue is met")
    target, authority = _origin_form(request, secure=secure)
    if authority is None:
        return request
    others = [(name, value) for name, value in request.headers.raw_items() if name.lower() != b"host"]
    return h11.Request(
        method=request.method,
        target=target,
        headers=[(b"Host", authority), *others],
        http_version=request.http_version,
    )


def _check_version(request: h11.Request) -> None:
    if not request.http_version.startswith(b"1."):
        raise UnknownHttpVersion(f"HTTP/{request.http_version.decode()} is not spoken here: use HTTP/1.1")


def _check_framing(request: h11.Request) -> None:
    """Refuse what two recipients could read as two different bodies (request smuggling)."""
    if not _values(request, b"transfer-encoding"):
        return
    if request.http_version == b"1.0":
        raise InvalidRequest("HTTP/1.0 has no Transfer-Encoding (RFC 9112, 6.1)")
    if _values(request, b"content-length"):
        raise InvalidRequest("Transfer-Encoding and Content-Length in one request (RFC 9112, 6.1): leave one out")


def _origin_form(request: h11.Request, *, secure: bool) -> tuple[bytes, bytes | None]:
    """The target in origin form, and the authority of one in absolute form, which counts instead of `Host`."""
    target = request.target
    if request.method == b"CONNECT":
        raise NoConnect("this server is no proxy: CONNECT does not exist; use GET or POST")
    if b"#" in target:
        raise InvalidRequest(f"the target {_shown(target)} has a fragment, which is not sent (RFC 9112, 3.2)")
    if target.startswith(b"/") or (target == b"*" and request.method == b"OPTIONS"):
        return target, None
    found = _ABSOLUTE.fullmatch(target)
    if found is None:
        raise InvalidRequest(f"the target {_shown(target)} is neither a path such as /v1/models nor a URL")
    scheme, authority, path, query = found.groups(b"")
    if scheme.lower() not in ((b"http", b"https") if secure else (b"http",)):
        raise Misdirected(f"{_shown(scheme)} is not the scheme of this connection: nothing is fetched from elsewhere")
    if not authority.partition(b":")[0] or not is_host(authority.decode("latin-1")):
        raise InvalidRequest(f"{_shown(authority)} in the target is no host name and port (RFC 9110, 4.2)")
    if request.method == b"OPTIONS" and not path and not query:
        return b"*", authority
    return (path or b"/") + query, authority


def _values(request: h11.Request, name: bytes) -> list[bytes]:
    return [value for key, value in request.headers if key == name]


def _shown(value: bytes) -> str:
    return repr(value[:128].decode("latin-1"))
