from __future__ import annotations

import ssl

import httpx
import pytest

from pipesd_agent.link.failures import moved, tls_trouble, wants_tls, why_unreachable
from pipesd_core.service.proxies import Proxy

URL = "https://gateway.example:8100/v1"


def caused_by(cause: BaseException, error: BaseException | None = None) -> BaseException:
    error = error or httpx.ConnectError("")
    error.__cause__ = cause
    return error


def tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}]")
    error.reason = reason
    return error


@pytest.mark.parametrize("reason", ["WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"])
def test_openssl_has_many_words_for_what_is_no_tls(reason: str) -> None:
    says = (
        f"the gateway {URL} does not speak TLS: set gateway to http://gateway.example:8100, or have it serve with TLS"
    )
    assert why_unreachable(caused_by(tls_error(reason)), URL, None) == says
    assert tls_trouble(tls_error(reason), URL, "the agent", "--url") == says.replace(
        "the gateway", "the agent"
    ).replace("set gateway", "set --url")


def test_other_trouble_keeps_its_words_and_those_of_its_cause_where_it_has_none() -> None:
    assert tls_trouble(ConnectionRefusedError(111, "refused"), URL) is None
    assert tls_trouble(ValueError(), "http://h") is None
    assert why_unreachable(OSError("no route"), URL, None) == f"cannot reach the gateway {URL}: no route"
    assert why_unreachable(caused_by(OSError("no route")), URL, None).endswith(": no route")
    assert why_unreachable(httpx.ConnectError(""), URL, None).endswith(": ConnectError")
    looped = OSError("a")
    looped.__cause__ = caused_by(looped, OSError("b"))
    assert why_unreachable(looped, URL, None).endswith(": a")


def test_a_proxy_is_to_blame_but_not_for_the_gateway_s_tls() -> None:
    proxy = Proxy("http://u:secret@p:1", "HTTPS_PROXY", "http://p:1")
    said = why_unreachable(ConnectionResetError("reset"), URL, proxy)
    assert "through the proxy http://p:1 of the environment variable HTTPS_PROXY: reset" in said
    assert "secret" not in said
    assert "does not speak TLS" in why_unreachable(tls_error("WRONG_VERSION_NUMBER"), URL, proxy)


def test_what_servers_say_to_plain_requests() -> None:
    plain = "http://h"
    assert wants_tls(plain, b"400 The plain HTTP request was sent to HTTPS port")  # nginx
    assert wants_tls(plain, b"Client sent an HTTP request to an HTTPS server.")  # Go
    assert wants_tls(plain, b"Reason: You're speaking plain HTTP to an SSL-enabled server port.")  # Apache
    assert not wants_tls(plain, b"\xff bad request")
    assert not wants_tls(plain, None)
    assert not wants_tls("https://h", b"400 The plain HTTP request was sent to HTTPS port")
    assert not wants_tls(plain, b'{"error": {"message": "min_tokens is \\"an HTTPS server\\""}}'), "a client's words"


def test_a_redirect_is_cut_to_a_sensible_length() -> None:
    assert len(moved(URL, "https://" + "x" * 5000)) < 400
