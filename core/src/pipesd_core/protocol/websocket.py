"""The WebSocket under pipesd.v1, as both ends use it: close codes, a header, and the pings that find a dead link.

Each end pings every `PING_INTERVAL_S` and waits `PING_TIMEOUT_S` for the answer, so that a dead link is found within
twice the interval. A busy machine needs the timeout to answer; where even that is not enough, the sessions of the link
are resumed on the next one.
"""

from __future__ import annotations

from typing import Final

PING_INTERVAL_S: Final = 4.5
PING_TIMEOUT_S: Final = 4.5

INSTANCE_HEADER: Final = "x-pipesd-instance"
"""Header of the handshake's answer: a name of the server's process, by which the agent tells two servers at one address
(a load balancer's) from one."""

CLOSE_LEAVING: Final = 1001
"""From the agent: it ends, or goes to another gateway, and resumes nothing of this connection."""
CLOSE_RESUMING: Final = 4000
"""From the agent: it resumes the sessions of this connection on another one."""
GOODBYES: Final = (1000, CLOSE_LEAVING)
"""Close codes of an agent that resumes nothing."""
CLOSE_PROTOCOL_ERROR: Final = 1002
"""From the gateway: the agent broke the protocol."""
CLOSE_TOO_SLOW: Final = 1008
"""From the gateway: the agent does not read what it is sent."""
CLOSE_INTERNAL_ERROR: Final = 1011
"""From the gateway: a bug of the gateway."""
CLOSE_RESTARTING: Final = 1012
"""From the gateway: it ends; the agent may find it again, or another one."""
CLOSE_SUPERSEDED: Final = 4001
"""From the gateway: the agent has resumed its sessions on a newer connection."""
