"""Every private part of uvicorn, and of its h11, that this package and the vLLM plugin touch, and a check of each.

They promise none of them: uvicorn's protocol classes are extended, and its configuration changed, where it has no
option for what we need. The check runs when a server starts, before the modules that touch them are imported; it looks
names and signatures up and costs a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from types import MappingProxyType
from typing import Final

from msgspec import Struct

from pipesd_core.errors import ConfigError
from pipesd_core.service.internals import find, moved

TESTED: Final = ">=0.53,<0.55"
"""The versions that pyproject.toml asks for."""


class Part(Struct, frozen=True):
    """A class of uvicorn.

    methods: that are overridden or called, and the names of their parameters (None: any). attributes: that are read
    or set; `init` is the method that sets them.
    """

    methods: Mapping[str, str | None] = MappingProxyType({})
    attributes: tuple[str, ...] = ()
    init: str = "__init__"


WEBSOCKET: Final = MappingProxyType(
    {
        "uvicorn.protocols.websockets.websockets_sansio_impl:WebSocketsSansIOProtocol": Part(
            methods={
                "__init__": "self,config,server_state,app_state,_loop",
                "handle_cont": "self,event",
                "handle_ping": "self",
                "handle_parser_exception": "self",
                "keepalive_timeout": "self",
                "run_asgi": "self",
            },
            attributes=("close_sent", "conn", "frames", "loop", "transport"),
        ),
        "uvicorn.config:Config": Part(attributes=("ws_ping_interval", "ws_ping_timeout")),
    }
)
"""The parts that the vLLM plugin replaces in vLLM's server."""
CLASSES: Final = MappingProxyType(
    {
        **WEBSOCKET,
        "uvicorn.protocols.http.h11_impl:H11Protocol": Part(
            methods={
                "__init__": "self,config,server_state,app_state,_loop",
                "_should_upgrade": "self",
                "connection_lost": "self,exc",
                "connection_made": "self,transport",
                "data_received": "self,data",
                "handle_websocket_upgrade": "self,event",
                "on_response_complete": "self",
                "send_400_response": "self,msg",
            },
            attributes=(
                "app",
                "conn",
                "connections",
                "cycle",
                "loop",
                "scheme",
                "server_state",
                "timeout_keep_alive",
                "timeout_keep_alive_task",
                "transport",
            ),
        ),
        # Of h11, which comes with it.
        "h11._connection:Connection": Part(
            methods={"__init__": "self,our_role,max_incomplete_event_size", "next_event": "self"},
            attributes=("_receive_buffer",),
        ),
        "h11._receivebuffer:ReceiveBuffer": Part(methods={"maybe_extract_at_most": "self,count"}),
        "uvicorn.protocols.http.h11_impl:RequestResponseCycle": Part(attributes=("keep_alive", "response_complete")),
        "uvicorn.server:ServerState": Part(attributes=("connections", "default_headers")),
        "uvicorn.server:Server": Part(
            methods={
                "__init__": "self,config",
                "handle_exit": None,  # sse-starlette puts a function that takes anything in its place
                "on_tick": "self,counter",
                "serve": "self,sockets",
                "shutdown": "self,sockets",
                "startup": "self,sockets",
            },
            attributes=("config", "server_state", "should_exit"),
        ),
    }
)
LOADED: Final = MappingProxyType(
    {"uvicorn.config:Config": Part(methods={"load": "self"}, attributes=("ssl", "ws_protocol_class"), init="load")}
)
"""Attributes that `Config.load` sets, and we set after it."""


def check(*tables: Mapping[str, Part]) -> None:
    """Check uvicorn. Raises ConfigError that names its version and the parts that moved. tables: all, by default."""
    if faults := faults_of(tables or (CLASSES, LOADED)):
        raise ConfigError(
            f"uvicorn {version('uvicorn')} is not as it was in the versions that this server was tested with "
            f"({TESTED}): " + "; ".join(faults)
        )


def faults_of(tables: Iterable[Mapping[str, Part]]) -> list[str]:
    """The parts of a class that are gone, or have another signature."""
    faults = []
    for table in tables:
        for where, part in table.items():
            faults += moved({f"{where}.{name}": wanted for name, wanted in part.methods.items()}, exact=True)
            faults += _not_set(where, part)
    return faults


def _not_set(where: str, part: Part) -> list[str]:
    """Attributes that `part.init` does not set. What it sets is among the names that its code uses."""
    try:
        names = find(f"{where}.{part.init}").__code__.co_names
    except (ImportError, AttributeError) as error:
        return [f"{where}.{part.init} is gone ({error})"] if part.attributes else []
    return [f"{where}.{part.init} sets no {name}" for name in part.attributes if name not in names]
