"""Connecting to one gateway: a WebSocket, or an error that says why there is none."""

from __future__ import annotations

import logging
import socket
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidMessage, InvalidProxyStatus, InvalidStatus, InvalidURI

from pipesd_agent.link.address import Address
from pipesd_agent.link.connection import CLOSE_TIMEOUT_S, SOCKET_BUFFER_BYTES, close_websocket
from pipesd_agent.link.failures import moved, no_server_behind, wants_tls, why_unreachable
from pipesd_agent.link.gateways import Declined
from pipesd_agent.link.network import DIRECT, Network
from pipesd_core.errors import ApiError, Unauthorized, Unavailable, error_message_from_body
from pipesd_core.protocol.messages import (
    MAX_FRAME_BYTES,
    SUBPROTOCOL,
)
from pipesd_core.protocol.websocket import CLOSE_LEAVING, INSTANCE_HEADER, PING_INTERVAL_S, PING_TIMEOUT_S
from pipesd_core.service.proxies import Proxy

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S: Final = 5.0
BUSY_STATUS: Final = (502, 503, 504)
"""Statuses of a server that drains, or of a load balancer whose server is gone."""
TCP_NOTSENT_LOWAT: Final = getattr(socket, "TCP_NOTSENT_LOWAT", 25)  # Linux's number; Python 3.11 does not name it


async def dial(address: Address, key: str | None, network: Network | None = None) -> ClientConnection:
    """Connect to a gateway that speaks our protocol, within `CONNECT_TIMEOUT_S`. Raises ApiError.

    network: the way there; None: directly, without TLS.
    """
    url, network = address.socket, network or DIRECT
    try:
        connecting = connect(
            url,
            subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
            additional_headers={"Authorization": f"Bearer {key}"} if key else {},
            compression=None,
            open_timeout=CONNECT_TIMEOUT_S,
            ping_interval=PING_INTERVAL_S,
            ping_timeout=PING_TIMEOUT_S,
            close_timeout=CLOSE_TIMEOUT_S,
            max_size=MAX_FRAME_BYTES,
            write_limit=SOCKET_BUFFER_BYTES,
            **network.websocket_options(url),
        )
        # A redirect is not followed: neither the key nor the proxy is meant for another address.
        connecting.process_redirect = lambda exc: exc  # type: ignore[method-assign]
        websocket = await connecting
    except (OSError, EOFError, InvalidHandshake, InvalidURI) as error:  # SSLError is an OSError
        raise _connect_error(error, url, network.proxy(url)) from error
    if websocket.subprotocol != SUBPROTOCOL:
        await close_websocket(websocket, CLOSE_LEAVING)
        raise Unavailable(f"{url} does not speak {SUBPROTOCOL}: is it a PipeSD gateway's address?")
    _bound_kernel_buffer(websocket)
    return websocket


def instance_of(websocket: ClientConnection) -> str | None:
    """The name of the server's process; None: it is of a version that tells none."""
    return None if websocket.response is None else websocket.response.headers.get(INSTANCE_HEADER)


def _bound_kernel_buffer(websocket: ClientConnection) -> None:
    raw = websocket.transport.get_extra_info("socket")
    if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
        try:
            raw.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, SOCKET_BUFFER_BYTES)
        except OSError as error:  # not on this system: the buffer is the kernel's then
            log.debug("TCP_NOTSENT_LOWAT: %s", error)


def _connect_error(error: Exception, url: str, proxy: Proxy | None) -> ApiError:
    if isinstance(error, InvalidStatus):
        status, message = error.response.status_code, error_message_from_body(error.response.body)
        if status == 401:  # whatever the body says: vLLM's own is not OpenAI-shaped
            reason = message or "no reason given"
            return Unauthorized(f"the gateway {url} refuses this agent's key ({reason}): set gateway_api_key_file")
        if 300 <= status < 400 and (location := error.response.headers.get("location")):
            return Unavailable(moved(url, location))
        if (trouble := wants_tls(url, error.response.body)) is not None:
            return Unavailable(trouble)
        kind = Declined if status in BUSY_STATUS else Unavailable
        if not message and status in BUSY_STATUS:
            return Declined(no_server_behind(url, status))
        if not message:
            return Unavailable(
                f"there is no PipeSD gateway at {url} (it answered {status}): check the setting gateway, and any proxy "
                "in between"
            )
        return kind(f"the gateway {url} answered {status}: {message}")
    if isinstance(error, InvalidProxyStatus) and proxy is not None:
        status = error.response.status_code
        remedy = (
            "it wants a user and a password, as in http://user:password@host:port" if status == 407 else "see there"
        )
        return Unavailable(
            f"the proxy {proxy.shown} of the environment variable {proxy.variable} does not connect to the gateway "
            f"{url} (it answered {status}): {remedy}"
        )
    if isinstance(error, TimeoutError):
        by = "" if proxy is None else f", through the proxy {proxy.shown} of {proxy.variable},"
        return Unavailable(f"the gateway {url}{by} does not answer within {CONNECT_TIMEOUT_S:g} s; try again")
    # A load balancer that passes bytes on hangs up where its server is gone.
    kind = Declined if isinstance(error, InvalidMessage | ConnectionResetError) else Unavailable
    return kind(why_unreachable(error, url, proxy))
