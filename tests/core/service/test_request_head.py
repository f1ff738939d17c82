"""What the head of a request comes to; what real servers answer is in tests/protocol/test_http_semantics.py."""

from __future__ import annotations

import h11
import pytest

from pipesd_core.service.request_head import RefusedHead, ServerConnection


def head_of(sent: bytes, *, secure: bool = False) -> h11.Request:
    connection = ServerConnection(65536, secure=secure)
    connection.receive_data(sent)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    return event


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        (b"/v1/models?a=b://c", b"/v1/models?a=b://c", b"given"),
        (b"http://h:1/v1/models?a", b"/v1/models?a", b"h:1"),
        (b"HTTP://[::1]", b"/", b"[::1]"),
        (b"http://h?a", b"/?a", b"h"),
        (b"http://h//x", b"//x", b"h"),
    ],
)
def test_targets_become_paths_and_their_host_counts(target: bytes, path: bytes, host: bytes) -> None:
    request = head_of(b"GET " + target + b" HTTP/1.1\r\nX-A: b\r\nHOST: given\r\n\r\n")
    assert (request.target, request.method, request.http_version) == (path, b"GET", b"1.1")
    assert sorted(request.headers) == [(b"host", host), (b"x-a", b"b")]


def test_https_is_for_connections_with_tls() -> None:
    sent = b"GET https://h/x HTTP/1.1\r\nHost: h\r\n\r\n"
    assert head_of(sent, secure=True).target == b"/x"
    assert head_of(sent.replace(b"https", b"http"), secure=True).target == b"/x"
    with pytest.raises(RefusedHead) as refused:
        head_of(sent)
    assert (refused.value.error.status, refused.value.method) == (421, b"GET")


def test_empty_lines_before_a_request_are_dropped_however_they_come() -> None:
    connection = ServerConnection(65536)
    for part in (b"\r\n", b"\r", b"\n\r\nGET / HTTP/1.1\r\n"):
        connection.receive_data(part)
        assert connection.next_event() is h11.NEED_DATA
    connection.receive_data(b"Host: h\r\n\r\n")
    assert isinstance(connection.next_event(), h11.Request)
