"""API keys of an HTTP API of ours, and a key file that is read again when it changes."""

from __future__ import annotations

import hmac
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipesd_core.errors import ConfigError, Unauthorized
from pipesd_core.service.settings import read_keys

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

log = logging.getLogger(__name__)

ANTHROPIC_KEY: Final = "x-api-key"
"""Header with the key, as Anthropic's clients send it."""
CHECK_S: Final = 1.0
"""Shortest time between two looks at the key file; a request makes them."""


class Keys:
    """The keys of one server.

    Args:
        keys: empty means open to everybody.
        file: the file of the keys, read again when it changes. None: the keys stay as they are.
    """

    def __init__(self, keys: frozenset[str] = frozenset(), file: Path | None = None) -> None:
        self._keys = keys
        self._file = file
        self._seen: object = None
        self._look_at = 0.0

    @property
    def required(self) -> bool:
        """Whether requests need a key. That never changes while a server runs."""
        return bool(self._keys)

    def authorize(self, connection: HTTPConnection) -> str | None:
        """Check a request or handshake; returns its key, None on a server without keys. Raises Unauthorized."""
        if not self.required:
            return None
        self._look()
        given = bearer(connection) or connection.headers.get(ANTHROPIC_KEY)
        if not given:
            raise Unauthorized(f"no API key: send it as `Authorization: Bearer KEY` or `{ANTHROPIC_KEY}: KEY`")
        # Every key is compared, and each in constant time: how long it takes tells nothing about any of them.
        matches = [hmac.compare_digest(key.encode(), given.encode()) for key in self._keys]
        if not any(matches):
            raise Unauthorized("the API key is not one of this server's")
        return given

    def _look(self) -> None:
        if self._file is None or (now := time.monotonic()) < self._look_at:
            return
        self._look_at = now + CHECK_S
        seen: object
        try:
            status = self._file.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
        except OSError as error:
            seen = error.errno
        if seen == self._seen:
            return
        self._seen = seen
        try:
            keys = read_keys(self._file)
        except ConfigError as error:  # half written, perhaps; a server that was closed must not open
            log.error("API keys not reloaded: %s", error)
            return
        if keys != self._keys:
            log.info("API keys reloaded: %d new, %d removed", len(keys - self._keys), len(self._keys - keys))
            self._keys = keys


def bearer(connection: HTTPConnection) -> str | None:
    """The key that a request claims to have."""
    scheme, _, given = connection.headers.get("authorization", "").partition(" ")
    return given.strip() or None if scheme.lower() == "bearer" else None
