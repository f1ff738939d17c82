"""Start and end of a program of ours: its streams, Ctrl-C, the socket before anything that takes long, an exit code.

Exit codes: 0 done, or stopped by a signal; 1 cannot run (model, port, output); 2 wrong configuration; 130 interrupted
before it served; 141 nobody reads the output any more (as other programs end, by SIGPIPE). Errors are one line on
stderr.

No web framework is imported here: `--help` and wrong configurations need none, and a model can load before it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar, cast

from pipesd_core.errors import ConfigError, PipeSDError
from pipesd_core.service import standard_streams
from pipesd_core.service.logs import LogFormat, set_up
from pipesd_core.service.sockets import SERVER_TIMEOUT_S, notice_dead_peers
from pipesd_core.service.standard_streams import OutputLost, complain

T = TypeVar("T")

INTERRUPTED: Final = 130
UNREAD: Final = 141

_loading: list[threading.Thread] = []
"""Threads of `load_in_thread`."""


class CannotServe(PipeSDError):
    """The address is not free, or not ours."""


def run(name: str, command: Callable[[], int]) -> int:
    """Run a command to its end, whatever its streams are and whenever Ctrl-C comes; returns the exit code.

    Every command line of ours begins here. SystemExit, by which argparse ends, passes.
    """
    standard_streams.prepare()
    try:
        with _interruptible():
            try:
                code = command()
            except SystemExit:
                standard_streams.flush()
                raise
            standard_streams.flush()
            return code
    except OutputLost as error:
        return UNREAD if error.unread else fail(name, error)
    except PipeSDError as error:
        return fail(name, error)
    except KeyboardInterrupt:
        return INTERRUPTED


def run_program(name: str, log_level: str, program: Coroutine[Any, Any, None], log_format: LogFormat = "text") -> int:
    """Run a server to its end; returns the exit code."""
    set_up(log_level, log_format)
    try:
        asyncio.run(program)
    except PipeSDError as error:
        return fail(name, error)
    except KeyboardInterrupt:
        if any(thread.is_alive() for thread in _loading):
            # It may take minutes more, and what it uses must not be taken down beneath it.
            standard_streams.flush()
            os._exit(INTERRUPTED)
        return INTERRUPTED
    return 0


async def load_in_thread(load: Callable[[], T]) -> T:
    """The result of `load`, which runs in a thread that no end of the program waits for: a model takes minutes."""
    loop = asyncio.get_running_loop()
    loaded: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if loaded.cancelled():
            return
        if error is not None:
            loaded.set_exception(error)
        else:
            loaded.set_result(cast("T", result))

    def work() -> None:
        result: T | None = None
        failure: BaseException | None = None
        try:
            result = load()
        except BaseException as error:
            failure = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, failure)

    thread = threading.Thread(target=work, name="load", daemon=True)
    _loading.append(thread)
    thread.start()
    return await loaded


@contextmanager
def _interruptible() -> Iterator[None]:
    """Have Ctrl-C raise KeyboardInterrupt; before and after, it ends the process without a word (`__main__`)."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) != signal.SIG_DFL:
        yield  # not ours to change: a test, or a shell's background, where it is ignored
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def fail(name: str, error: PipeSDError) -> int:
    """Print on one line of stderr why the program ends; returns the exit code."""
    complain(f"{name}: {' '.join(str(error).split())}")
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
