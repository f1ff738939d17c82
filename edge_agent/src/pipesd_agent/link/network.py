"""The network as a program reaches it: the one place that makes its HTTP clients, and says how its WebSockets connect.

What the environment says of proxies and of certificate authorities is read and checked once, when a `Network` is made.
The libraries are given all of it, and read nothing by themselves.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from pipesd_core.service.proxies import Proxies, Proxy
from pipesd_core.service.trust import client_context, without_authorities

if TYPE_CHECKING:  # an HTTP client is a tenth of all that the agent imports
    import httpx

SECURE: Final = ("https", "wss")


class Network:
    """Makes the HTTP clients of a program, and knows how its WebSockets connect.

    Args:
        environ: with the variables of proxies (`proxies.VARIABLES`) and of authorities (`trust`). What these servers
            do not need is not looked at.
        urls: of all servers that are asked: http(s):// and ws(s)://.
        ca_file: the only authorities of these servers; None: those of the environment, or of the system.

    Raises ConfigError, which names the variable, where one that is needed cannot be used.
    """

    def __init__(
        self,
        environ: Mapping[str, str] = os.environ,
        urls: Iterable[str] = (),
        ca_file: Path | None = None,
    ) -> None:
        proxies = Proxies(environ)
        urls = list(urls)
        self._proxies = {_origin(url): proxy for url in urls if (proxy := proxies.of(url)) is not None}
        secure = any(url.lower().startswith(tuple(f"{scheme}:" for scheme in SECURE)) for url in urls)
        self._tls = client_context(environ, ca_file) if secure else None
        by_tls = any(proxy.secure for proxy in self._proxies.values())
        self._proxy_tls = client_context(environ) if by_tls else None

    def proxy(self, url: str) -> Proxy | None:
        """The proxy on the way to one of the servers; None: there is none."""
        return self._proxies.get(_origin(url))

    def websocket_options(self, url: str) -> dict[str, Any]:
        """Arguments of `websockets.connect` for the WebSocket of one of the servers."""
        proxy = self.proxy(url)
        options: dict[str, Any] = {"proxy": None if proxy is None else proxy.url}
        if urlsplit(url).scheme in SECURE:
            options["ssl"] = self._server_tls
        if proxy is not None and proxy.secure:
            options["proxy_ssl"] = self._proxy_tls
        return options

    def http_client(self, *, socket_options: Any = None, **options: Any) -> httpx.AsyncClient:
        """An HTTP client. socket_options: of its connections, for `setsockopt`; options: of `httpx.AsyncClient`."""
        import httpx

        made: dict[str, Any] = {"verify": self._server_tls, "socket_options": socket_options, "trust_env": False}
        if "limits" in options:
            made["limits"] = options["limits"]
        if socket_options is not None:
            options["transport"] = httpx.AsyncHTTPTransport(**made)
        mounts = {
            origin: httpx.AsyncHTTPTransport(proxy=self._of_httpx(proxy), **made)
            for origin, proxy in self._http_proxies.items()
        }
        return httpx.AsyncClient(verify=self._server_tls, trust_env=False, mounts=mounts, **options)

    def blocking_http_client(self, **options: Any) -> httpx.Client:
        """An HTTP client that blocks. options: of `httpx.Client`."""
        import httpx

        made: dict[str, Any] = {"verify": self._server_tls, "trust_env": False}
        mounts = {
            origin: httpx.HTTPTransport(proxy=self._of_httpx(proxy), **made)
            for origin, proxy in self._http_proxies.items()
        }
        return httpx.Client(mounts=mounts, **made, **options)

    @property
    def _server_tls(self) -> ssl.SSLContext:
        return without_authorities() if self._tls is None else self._tls

    @property
    def _http_proxies(self) -> dict[str, Proxy]:
        return {origin: proxy for origin, proxy in self._proxies.items() if origin.startswith("http")}

    def _of_httpx(self, proxy: Proxy) -> httpx.Proxy:
        import httpx

        return httpx.Proxy(proxy.url, ssl_context=self._proxy_tls if proxy.secure else None)


def _origin(url: str) -> str:
    """The part of a URL that decides how its server is reached."""
    scheme, _, rest = url.partition("://")
    place = rest.partition("/")[0].partition("?")[0].partition("#")[0].lower()
    return f"{scheme.lower()}://{place}"


DIRECT: Final = Network({})
"""The way to servers without proxies and without TLS."""
