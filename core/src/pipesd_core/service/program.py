"""Start and end of a program of ours: the socket before anything that takes long, and an exit code.

Exit codes: 0 stopped by a signal, 1 cannot run (model, port), 2 wrong configuration. Errors are one line on stderr.

No web framework is imported here: `--help` and wrong configurations need none, and a model can load before it.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Coroutine
from typing import Any

from pipesd_core.errors import ConfigError, PipeSDError
from pipesd_core.service.logs import LogFormat, set_up
from pipesd_core.service.sockets import SERVER_TIMEOUT_S, notice_dead_peers


class CannotServe(PipeSDError):
    """The address is not free, or not ours."""


def run_program(name: str, log_level: str, program: Coroutine[Any, Any, None], log_format: LogFormat = "text") -> int:
    """Run a server to its end; returns the exit code."""
    set_up(log_level, log_format)
    try:
        asyncio.run(program)
    except PipeSDError as error:
        return fail(name, error)
    except KeyboardInterrupt:  # while the model was loading
        return 130
    return 0


def fail(name: str, error: PipeSDError) -> int:
    """Print on one line of stderr why the program ends; returns the exit code."""
    print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
    return 2 if isinstance(error, ConfigError) else 1


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises CannotServe."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            notice_dead_peers(listener, SERVER_TIMEOUT_S)
            listener.bind(address)
            listener.listen(128)
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that no host can have
        why = error.strerror if isinstance(error, OSError) else error
        raise CannotServe(f"cannot listen on {host}:{port}: {why}; choose another --host or --port") from error
    return listener
