"""Parsing of gateway addresses."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit, urlunsplit

from msgspec import Struct

from pipesd_core.errors import ConfigError

AGENTS_SOCKET: Final = "/v1/pipesd/ws"


class Address(Struct, frozen=True):
    """Address of a gateway.

    socket: ws:// or wss:// URL of the agents' WebSocket. http: http:// or https:// URL of the root, without /v1.
    """

    socket: str
    http: str

    @property
    def secure(self) -> bool:
        return self.socket.startswith("wss:")

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address that an http(s):// or ws(s):// URL means, with or without the API's path. Raises ConfigError."""
        try:
            parts = urlsplit(text)
            host, _ = parts.hostname or "", parts.port  # ValueError when it is no port
            host.encode("idna")  # ValueError when it is no name, with which connecting would fail
            usable = parts.scheme in ("http", "https", "ws", "wss") and bool(host) and " " not in host
        except ValueError:
            usable = False
        if usable and "@" in parts.netloc:
            # Not shown: it would be in logs and in /health as well.
            raise ConfigError("gateway must be an address without a user or password: set gateway_api_key_file")
        if not usable:
            raise ConfigError(
                f"gateway must be an address such as http://127.0.0.1:8100 or wss://host, but is {text!r}"
            )
        s = "s" if parts.scheme in ("https", "wss") else ""
        root = parts.path.rstrip("/").removesuffix(AGENTS_SOCKET).removesuffix("/v1")
        return cls(
            urlunsplit((f"ws{s}", parts.netloc, root + AGENTS_SOCKET, "", "")),
            urlunsplit((f"http{s}", parts.netloc, root, "", "")),
        )
