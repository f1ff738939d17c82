"""How a program starts and ends, without a model."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from starlette.applications import Starlette

from pipesd_core.errors import ConfigError, ModelLoadError
from pipesd_core.service.program import CannotServe, fail, listen, run_program
from pipesd_core.service.server import Server


@pytest.mark.parametrize(
    ("raised", "code"),
    [(None, 0), (ModelLoadError("no model"), 1), (CannotServe("taken"), 1), (ConfigError("wrong"), 2)],
)
def test_exit_codes(raised: Exception | None, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    async def program() -> None:
        if raised is not None:
            raise raised

    assert run_program("prog", "info", program()) == code
    assert capsys.readouterr().err == (f"prog: {raised}\n" if raised else "")


def test_an_interrupt_while_starting(capsys: pytest.CaptureFixture[str]) -> None:
    async def program() -> None:
        raise KeyboardInterrupt

    assert run_program("prog", "info", program()) == 130
    assert capsys.readouterr().err == ""


def test_a_bug_is_not_hidden() -> None:
    async def program() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_program("prog", "info", program())


def test_an_error_is_one_line_whatever_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail("prog", ModelLoadError("first\n\n  second\r\nthird")) == 1
    assert capsys.readouterr().err == "prog: first second third\n"


def test_listening() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        assert port > 0
        with pytest.raises(CannotServe, match=rf"cannot listen on 127\.0\.0\.1:{port}: .*in use.*--port"):
            listen("127.0.0.1", port)
    with listen("127.0.0.1", port):
        pass  # free again at once


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid", "", "x" * 80, "a..b", "\x00"])
def test_hosts_that_are_not_here(host: str) -> None:
    with pytest.raises(CannotServe, match="choose another --host or --port"):
        listen(host, 0)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
async def test_what_is_printed_is_a_usable_address(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        listener = listen("::1", 0)
    except CannotServe as error:
        pytest.skip(str(error))
    order = await serve_and_stop(listener)
    port = order.pop(0)
    assert capsys.readouterr().out == f"listening on http://[::1]:{port}/v1\n"


async def test_whoever_is_told_is_told_before_connections_are_cut() -> None:
    order = await serve_and_stop(listen("127.0.0.1", 0))
    assert order[1:] == ["on_stop", "lifespan"]


async def serve_and_stop(listener: socket.socket) -> list[Any]:
    """[port, then what happened in order]"""
    order: list[Any] = [listener.getsockname()[1]]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        order.append("lifespan")
        await send({"type": "lifespan.shutdown.complete"})

    async def on_stop() -> None:
        order.append("on_stop")

    server = Server(app, on_stop, log_level="warning")
    serving = asyncio.create_task(server.serve([listener]))
    async with asyncio.timeout(60):
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        server.should_exit = True
        await serving
    return order


def test_a_server_takes_no_number_of_workers_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvicorn would, and raise where it is none."""
    monkeypatch.setenv("WEB_CONCURRENCY", "auto")

    async def stop() -> None:
        pass

    assert Server(Starlette(), stop).config.workers == 1
