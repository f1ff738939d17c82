"""`pipesd-gateway serve`: the gateway with its embedded llama.cpp engine, from a command line.

Exit codes: 0 stopped by a signal, 1 cannot run (model, port), 2 wrong configuration. Errors are one line on stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import uvicorn
from starlette.requests import HTTPConnection

from pipesd_gateway import ws
from pipesd_gateway.config import LOG_LEVELS, GatewayConfig, load
from pipesd_gateway.engine import Engine
from pipesd_gateway.exceptions import ConfigError, PipeSDError
from pipesd_gateway.protocol import MAX_FRAME_BYTES
from pipesd_gateway.server import authorize, create_app
from pipesd_gateway.session import SessionLimits

GRACE_S: Final = 5
"""At shutdown: longest wait for connections to end, after all their requests were told so."""
WS_PING_S: Final = 5.0
"""A dead link is noticed within twice this."""

logger = logging.getLogger(__name__)


class CannotServe(PipeSDError):
    """The address is not free, or not ours."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    flags = vars(_parser().parse_args(argv))
    del flags["command"]
    file = flags.pop("config", None)
    try:
        config = load(flags, os.environ, file)
    except ConfigError as error:
        return _fail(error, 2)
    logging.basicConfig(
        level=config.log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        asyncio.run(_serve(config))
    except PipeSDError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:  # while the model was loading
        return 130
    return 0


def _fail(error: PipeSDError, code: int) -> int:
    print(f"pipesd-gateway: {' '.join(str(error).split())}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pipesd-gateway", description="PipeSD's cloud side.")
    commands = parser.add_subparsers(dest="command", required=True)
    # SUPPRESS: a flag that was not given is absent, so that it cannot hide what the file says.
    serve = commands.add_parser(
        "serve",
        help="serve a GGUF model to edge agents and to OpenAI clients",
        argument_default=argparse.SUPPRESS,
        description="Serve a GGUF model to edge agents and to OpenAI clients. A flag beats the configuration file.",
    )
    add = serve.add_argument
    add("--model", metavar="FILE", help="the target model, a GGUF file")
    add("--config", metavar="FILE", type=Path, help="TOML; keys as these flags, with _ for -")
    add("--host", help="address to listen on (127.0.0.1)")
    add("--port", type=int, metavar="N", help="port; 0 takes a free one (8100)")
    add("--api-key-file", metavar="FILE", help="one key per line; or PIPESD_API_KEY in the environment")
    add("--name", help="the model's name in the API (the file's own)")
    add("--n-seq", type=int, metavar="N", help="sessions at once (4)")
    add("--context", type=int, metavar="N", help="tokens per session, prompt and answer (2048)")
    add("--threads", type=int, metavar="N", help="threads of llama.cpp (1)")
    add("--max-queue", type=int, metavar="N", help="requests that may wait for a session (16)")
    add("--park-timeout", type=float, metavar="S", help="seconds to wait for a silent agent (5)")
    add("--step-floor-ms", type=float, metavar="MS", help="least time of a step, emulates a big target (0)")
    add("--log-level", choices=LOG_LEVELS, help="(info)")
    return parser


async def _serve(config: GatewayConfig) -> None:
    listener = _listen(config.host, config.port)  # before the model: a taken port is known at once
    try:
        engine = await asyncio.to_thread(_load_engine, config)
    except BaseException:
        listener.close()
        raise
    try:
        app = create_app(engine, api_keys=config.api_keys)

        def check_key(connection: HTTPConnection) -> None:
            authorize(connection, config.api_keys)

        ws.attach(app, engine, SessionLimits(park_timeout_s=config.park_timeout), check_key)
        if not config.api_keys and config.host not in ("127.0.0.1", "::1", "localhost"):
            logger.warning("listening on %s without an API key: everybody who reaches it may use it", config.host)
        # uvicorn raises the signals that stopped it once more when it is done; by then they have done their work.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        await Server(app, engine, log_level=config.log_level).serve([listener])
    finally:
        await engine.aclose()


class Server(uvicorn.Server):
    """uvicorn with the gateway's settings; when it stops, every running request is told before it is cut."""

    def __init__(self, app: object, engine: Engine, *, log_level: str = "info") -> None:
        super().__init__(
            uvicorn.Config(
                app,  # type: ignore[arg-type]
                log_config=None,
                log_level=log_level,
                access_log=log_level == "debug",
                ws="websockets-sansio",
                ws_per_message_deflate=False,
                ws_max_size=MAX_FRAME_BYTES,
                ws_ping_interval=WS_PING_S,
                ws_ping_timeout=WS_PING_S,
                timeout_graceful_shutdown=GRACE_S,
                server_header=False,
            )
        )
        self._engine = engine

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            host, port = listener.getsockname()[:2]
            print(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}/v1", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._engine.aclose()
        await super().shutdown(sockets)


def _load_engine(config: GatewayConfig) -> Engine:
    # Imported here: `--help` and configuration errors need no llama.cpp.
    from pipesd_gateway.embedded.decoder import TargetDecoder
    from pipesd_gateway.embedded.probe import check_model_runs
    from pipesd_gateway.embedded.serving import EmbeddedEngine

    check_model_runs(config.model)
    decoder = TargetDecoder(
        config.model,
        n_seq=config.n_seq,
        n_ctx_seq=config.context,
        threads=config.threads,
        step_floor_s=config.step_floor_ms / 1000,
        max_queue=config.max_queue,
    )
    return EmbeddedEngine(decoder, name=config.name or decoder.model.name)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(128)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise CannotServe(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --host or --port"
        ) from error
    return listener
