"""TCP sockets that notice a dead peer: one whose machine or link is gone says nothing, and TCP alone waits for hours.

Silence is probed for with keepalives; what was sent and is not acknowledged in time ends the connection. A peer that is
alive and slow answers both. Options that a system does not have are left out.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import Final

IDLE_S: Final = 5
"""Time of silence before the first keepalive, and between two of them."""
PROBES: Final = 3
CLIENT_TIMEOUT_S: Final = 15
"""Longest time without an answer of the peer, on a connection that we opened; for probes and data alike."""
SERVER_TIMEOUT_S: Final = 75
"""The bound for a connection that was opened to us. Linux counts a peer's full receive buffer too, and a client may
read nothing for `http.SEND_TIMEOUT_S` before its stream is aborted."""

Option = tuple[int, int, int]


def options(timeout_s: int) -> list[Option]:
    """Options for `setsockopt`: a connection ends after `timeout_s` seconds without an answer of the peer."""
    wanted = {"TCP_KEEPIDLE": IDLE_S, "TCP_KEEPINTVL": IDLE_S, "TCP_KEEPCNT": PROBES}
    wanted["TCP_USER_TIMEOUT"] = timeout_s * 1000
    found = [
        (socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in wanted.items() if hasattr(socket, name)
    ]
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *found]


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine reaches a listener by itself."""
    return listener.family in (socket.AF_INET, socket.AF_INET6) and ip_address(listener.getsockname()[0]).is_loopback


def notice_dead_peers(sock: socket.socket, timeout_s: int) -> None:
    """Set `options` on a socket. Connections that a listener accepts inherit its options (on Linux)."""
    for option in options(timeout_s):
        sock.setsockopt(*option)
