"""How our servers find WebSockets whose other end is gone, and let go of them.

Both ends ping every `PING_INTERVAL_S` and wait `PING_TIMEOUT_S` for the answer, so that a dead link is found within
twice the interval; a busy machine has the timeout to answer. After that nothing is waited for: what a dead peer does
not take would else keep the socket, and the sessions on it, until TCP gives up. `limits.KeptAlive` does it.
"""

from __future__ import annotations

from typing import Final

PING_INTERVAL_S: Final = 4.5
PING_TIMEOUT_S: Final = 4.5
CLOSE_S: Final = 3.0
"""Longest time for the other end to take what is left for it, after the last was said."""
