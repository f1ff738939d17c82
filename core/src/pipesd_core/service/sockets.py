"""TCP sockets that notice a dead peer: one whose machine or link is gone says nothing, and TCP alone waits for hours.

Silence is probed for with keepalives; what was sent and is not acknowledged in time ends the connection. A peer that is
alive and slow answers both. Options that a system does not have are left out.
"""

from __future__ import annotations

import socket
from typing import Final

IDLE_S: Final = 5
"""Silence before the first keepalive, and the time between them."""
PROBES: Final = 3
CLIENT_TIMEOUT_S: Final = 15
"""Of a connection that we opened: longest without any sign of life from the peer. Probes or data, the same bound."""
SERVER_TIMEOUT_S: Final = 75
"""Of one that was opened to us. Linux counts a peer's full receive buffer too, and a client may rest for
`http.SEND_TIMEOUT_S` before it is told so."""

Option = tuple[int, int, int]


def options(timeout_s: int) -> list[Option]:
    """For `setsockopt`: no sign of life for `timeout_s` seconds ends a connection."""
    wanted = {"TCP_KEEPIDLE": IDLE_S, "TCP_KEEPINTVL": IDLE_S, "TCP_KEEPCNT": PROBES}
    wanted["TCP_USER_TIMEOUT"] = timeout_s * 1000
    found = [
        (socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in wanted.items() if hasattr(socket, name)
    ]
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *found]


def notice_dead_peers(sock: socket.socket, timeout_s: int) -> None:
    """Set them. Connections that a listener accepts inherit its options (on Linux)."""
    for option in options(timeout_s):
        sock.setsockopt(*option)
