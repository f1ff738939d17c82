"""`pipesd-gateway serve`: the gateway with its embedded llama.cpp engine, from a command line."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from starlette.requests import HTTPConnection

from pipesd_gateway import ws
from pipesd_gateway.config import GatewayConfig, load
from pipesd_gateway.engine import Engine
from pipesd_gateway.exceptions import ConfigError
from pipesd_gateway.quota import Quota
from pipesd_gateway.serve import Server, fail, listen, run_program
from pipesd_gateway.server import authorize, create_app
from pipesd_gateway.session import SessionLimits
from pipesd_gateway.settings import LOG_LEVELS

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    flags = vars(_parser().parse_args(argv))
    del flags["command"]
    file = flags.pop("config", None)
    try:
        config = load(flags, os.environ, file)
    except ConfigError as error:
        return fail("pipesd-gateway", error)
    return run_program("pipesd-gateway", config.log_level, _serve(config))


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
    add("--grace", type=float, metavar="S", help="seconds that a lost agent has to resume its sessions (30)")
    add("--step-floor-ms", type=float, metavar="MS", help="least time of a step, emulates a big target (0)")
    add("--max-sessions-per-key", type=int, metavar="N", help="agents' sessions per API key (256)")
    add("--log-level", choices=LOG_LEVELS, help="(info)")
    return parser


async def _serve(config: GatewayConfig) -> None:
    listener = listen(config.host, config.port)  # before the model: a taken port is known at once
    try:
        engine = await asyncio.to_thread(_load_engine, config)
    except BaseException:
        listener.close()
        raise
    try:
        app = create_app(engine, api_keys=config.api_keys)

        def check_key(connection: HTTPConnection) -> str | None:
            return authorize(connection, config.api_keys)

        limits = SessionLimits(park_timeout_s=config.park_timeout, grace_s=config.grace)
        ws.attach(app, engine, limits, check_key, Quota(config.max_sessions_per_key))
        if not config.api_keys and config.host not in ("127.0.0.1", "::1", "localhost"):
            logger.warning("listening on %s without an API key: everybody who reaches it may use it", config.host)
        await Server(app, engine.aclose, log_level=config.log_level).run_on(listener)
    finally:
        await engine.aclose()


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
