"""Park keys: by them the engine core recognises the sessions of this server's own endpoint.

Anybody can set `extra_args` through a request's `vllm_xargs`, so a name alone would let anybody park requests, which
hold memory. A key is a nonce and its HMAC under a secret that only the server's processes share, by their environment.
"""

from __future__ import annotations

import hmac
import os
import secrets
from typing import Final

SECRET_VARIABLE: Final = "PIPESD_VLLM_SECRET"
KEY_ARG: Final = "pipesd_key"
NOISE_ARG: Final = "pipesd_noise"
AHEAD_ARG: Final = "pipesd_ahead"
"""Steps beyond the first that a session takes before it is parked for the first time."""


def ensure_secret() -> None:
    """Have a secret in the environment before any process of the server is spawned."""
    os.environ.setdefault(SECRET_VARIABLE, secrets.token_hex(32))


def new_key() -> str:
    """A key for one session."""
    nonce = secrets.token_hex(16)
    return f"{nonce}.{_mac(nonce)}"


def is_ours(key: object) -> bool:
    """Whether a key was made by a process of this server."""
    if not isinstance(key, str) or not key.isascii():
        return False
    nonce, _, mac = key.partition(".")
    return hmac.compare_digest(mac, _mac(nonce))


def _mac(nonce: str) -> str:
    return hmac.digest(os.environ[SECRET_VARIABLE].encode(), nonce.encode(), "sha256").hex()
