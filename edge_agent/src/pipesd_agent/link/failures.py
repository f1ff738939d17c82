"""Reasons why a server cannot be reached, for people: what failed, and what to set instead of the libraries' words."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Final, TypeVar
from urllib.parse import urlsplit

from pipesd_core.errors import error_message_from_body
from pipesd_core.service.proxies import Proxy

E = TypeVar("E", bound=BaseException)

NOT_TLS: Final = frozenset(
    ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG")
)
"""OpenSSL's reasons for what is no TLS at all; their names differ between its versions."""
_OTHER_SCHEME: Final = {"ws": "https", "http": "https", "wss": "http", "https": "http"}


def why_unreachable(error: BaseException, url: str, proxy: Proxy | None) -> str:
    """The message for an attempt to connect to a gateway that failed. proxy: on the way there."""
    causes = list(_causes(error))
    if proxy is not None and _of_kind(causes, ssl.SSLError) is None:
        return (
            f"cannot reach the gateway {url} through the proxy {proxy.shown} of the environment variable "
            f"{proxy.variable}: {_words(error, causes)}; correct or unset it, or add the host to NO_PROXY"
        )
    return tls_trouble(error, url) or f"cannot reach the gateway {url}: {_words(error, causes)}"


def tls_trouble(
    error: BaseException,
    url: str,
    server: str = "the gateway",
    setting: str = "gateway",
    trust: str = "set ca_file",
) -> str | None:
    """The message for an attempt that failed by TLS, or for want of it; None: it failed by something else.

    server, setting, trust: how to call the server, the setting that holds its address, and the remedy for a certificate
    of an authority that nobody knows.
    """
    causes = list(_causes(error))
    if (untrusted := _of_kind(causes, ssl.SSLCertVerificationError)) is not None:
        return (
            f"the certificate of {server} {url} is not trusted ({untrusted.verify_message}): check the host's name, "
            f"and {trust} if its authority is not a public one"
        )
    parts = urlsplit(url)
    other = f"{_OTHER_SCHEME.get(parts.scheme, 'http')}://{parts.netloc}"
    if parts.scheme in ("ws", "http"):
        if any(isinstance(cause, EOFError) or "without sending a response" in str(cause) for cause in causes):
            return f"cannot reach {server} {url}: no HTTP answer came; if it serves with TLS, set {setting} to {other}"
        return None
    failure = _of_kind(causes, ssl.SSLError)
    if failure is not None and failure.reason in NOT_TLS:
        return f"{server} {url} does not speak TLS: set {setting} to {other}, or have it serve with TLS"
    if isinstance(failure, ssl.SSLEOFError) or _of_kind(causes, ConnectionResetError) is not None:
        return f"{server} {url} ended the TLS handshake: if it serves without TLS, set {setting} to {other}"
    return None if failure is None else f"the TLS handshake with {server} {url} failed: {_words(failure, causes)}"


def no_server_behind(url: str, status: int) -> str:
    """The message for a 502, 503 or 504 that is no gateway's own."""
    return f"a proxy before the gateway {url} answered {status}: no server is there; try again"


def wants_tls(url: str, body: bytes | bytearray | None) -> str | None:
    """The message for an error page of nginx and others: the request to `url` should have come over TLS. None: it is
    another one, as an OpenAI-shaped error is, whatever words of the client's it repeats."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "ws") or error_message_from_body(body):
        return None
    text = (body or b"").decode("latin-1")
    if not any(words in text for words in ("HTTPS port", "HTTPS server", "SSL-enabled server")):
        return None
    return f"the gateway {url} serves with TLS: set gateway to https://{parts.netloc}"


def moved(url: str, location: str) -> str:
    """The message for a redirect, which is not followed: the key that is sent along is not for everybody."""
    return f"the gateway {url} sends on to {location[:200]!r}: set gateway to the address that serves"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _of_kind(causes: list[BaseException], kind: type[E]) -> E | None:
    return next((cause for cause in causes if isinstance(cause, kind)), None)


def _words(error: BaseException, causes: list[BaseException]) -> str:
    """The library's own words; of the causes where it has none."""
    return next((text for cause in (error, *causes) if (text := str(cause))), type(error).__name__)
