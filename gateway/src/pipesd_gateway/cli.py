"""`pipesd-gateway serve`: the gateway with its embedded llama.cpp engine, from a command line."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipesd_core.service.api_keys import Keys
from pipesd_core.service.flags import strict
from pipesd_core.service.hosts import names_of
from pipesd_core.service.lifecycle import Lifecycle
from pipesd_core.service.program import listen, load_in_thread, run, run_program
from pipesd_core.service.server import Server
from pipesd_core.service.settings import HELP, LOG_LEVELS, ShowVersion, help_format
from pipesd_core.service.sockets import is_loopback
from pipesd_core.service.startup import answering_while_starting
from pipesd_core.service.tasks import Tasks
from pipesd_core.text_encoding import read_text
from pipesd_gateway import agents
from pipesd_gateway.api import create_app
from pipesd_gateway.config import PROGRAM, GatewayConfig, load
from pipesd_gateway.limits import SessionLimits
from pipesd_gateway.metrics import GatewayMetrics
from pipesd_gateway.quota import Quota

if TYPE_CHECKING:
    from pipesd_core.llamacpp.runtime.engine import EmbeddedEngine

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run("pipesd-gateway", lambda: _command(argv))


def _command(argv: Sequence[str] | None) -> int:
    flags = vars(_parser().parse_args(argv))
    del flags["command"]
    file = flags.pop("config", None)
    config = load(flags, os.environ, file)
    return run_program("pipesd-gateway", config.log_level, _serve(config), config.log_format)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pipesd-gateway", description="PipeSD's cloud side.")
    parser.add_argument("--version", action=ShowVersion, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", required=True)
    # SUPPRESS: a flag that was not given is absent, so that it cannot hide what the file says.
    serve = commands.add_parser(
        "serve",
        help="serve a GGUF model to edge agents and to OpenAI clients",
        argument_default=argparse.SUPPRESS,
        usage="pipesd-gateway serve --model FILE [flags]",
        description="Serve a GGUF model to edge agents and to OpenAI clients.",
        epilog=HELP.format(prefix=PROGRAM.prefix),
        formatter_class=help_format,
    )
    add = strict(serve).add_argument
    add("--model", type=Path, metavar="FILE", help="target model, a GGUF file")
    add("--config", metavar="FILE", type=Path, help="TOML configuration file")
    add("--host", metavar="HOST", help="address to listen on (127.0.0.1)")
    add("--port", type=int, metavar="N", help="port to listen on; 0 takes a free one (8100)")
    add("--api-key-file", type=Path, metavar="FILE", help="API keys, one per line; reloaded on change")
    add("--name", help="model name in the API (that of the model file)")
    add("--chat-template", type=Path, metavar="FILE", help="Jinja chat template (that of the model file)")
    add("--n-seq", type=int, metavar="N", help="sequences that run at once (4)")
    add("--context", type=int, metavar="N", help="tokens of a sequence, prompt + answer (2048)")
    add("--threads", type=int, metavar="N", help="threads of llama.cpp (1)")
    add("--max-queue", type=int, metavar="N", help="length of the admission queue (16)")
    add("--park-timeout", type=float, metavar="S", help="seconds to wait for a silent agent (5)")
    add("--grace", type=float, metavar="S", help="seconds a lost agent has to resume sessions (30)")
    add("--step-floor-ms", type=float, metavar="MS", help="minimum step time, to emulate a big target (0)")
    add("--max-sessions-per-key", type=int, metavar="N", help="agents' sessions per API key (256)")
    add(
        "--unknown-parameters",
        choices=("refuse", "ignore"),
        metavar="WHAT",
        help="what is done with unknown parameters: refuse, or ignore and say so (refuse)",
    )
    add("--tls-cert", type=Path, metavar="FILE", help="PEM certificate chain; enables TLS (none)")
    add("--tls-key", type=Path, metavar="FILE", help="PEM private key (in the file of --tls-cert)")
    add("--cors-origin", action="append", metavar="URL", help="web origin allowed to call the API (none)")
    add("--allowed-host", action="append", metavar="NAME", help="host name to answer to (see docs/operation.md)")
    add("--drain-timeout", type=float, metavar="S", help="seconds to finish requests after SIGTERM (30)")
    add("--keep-alive", type=int, metavar="S", help="seconds until an idle connection is closed (75)")
    add("--log-level", choices=LOG_LEVELS, metavar="LEVEL", help=f"log level: {', '.join(LOG_LEVELS)} (info)")
    add("--log-format", choices=("text", "json"), metavar="FORMAT", help="text, or one JSON object per line (text)")
    return parser


async def _serve(config: GatewayConfig) -> None:
    tls = config.tls()
    template = None if config.chat_template is None else read_text(config.chat_template, "chat template")
    listener = listen(config.host, config.port)  # before the model: a taken port is known at once
    hosts = names_of(config.allowed_host, loopback=is_loopback(listener))
    try:
        async with answering_while_starting(listener, tls, hosts):
            engine = await load_in_thread(lambda: _load_engine(config, template))
    except BaseException:
        listener.close()
        raise
    try:
        keys = Keys(config.api_keys, config.api_key_file)
        quota = Quota(config.max_sessions_per_key)
        lifecycle = Lifecycle()
        metrics = GatewayMetrics()
        tasks = Tasks()
        tasks.watch("decode thread", lambda: engine.fault)

        def held() -> dict[str, int]:
            counts = {"sessions": quota.taken, "resumable": len(registry), "requests": lifecycle.requests}
            return counts | engine.load | {"tasks": len(asyncio.all_tasks())}

        app = create_app(
            engine,
            keys=keys,
            lifecycle=lifecycle,
            cors_origins=config.cors_origin,
            hosts=hosts,
            load=held,
            metrics=metrics,
            tasks=tasks,
        )
        limits = SessionLimits(park_timeout_s=config.park_timeout, grace_s=config.grace)
        registry = agents.attach(app, metrics.measure(engine, "agent"), limits, keys.authorize, quota, lifecycle)
        if not keys.required and not is_loopback(listener):
            logger.warning("listening on %s without an API key: everybody who reaches it may use it", config.host)
        server = Server(
            app,
            engine.aclose,
            log_level=config.log_level,
            tls=tls,
            lifecycle=lifecycle,
            drain_timeout_s=config.drain_timeout,
            keep_alive_s=config.keep_alive,
        )
        await server.run_on(listener)
    finally:
        await engine.aclose()


def _load_engine(config: GatewayConfig, chat_template: str | None) -> EmbeddedEngine:
    # Imported here: `--help` and configuration errors need no llama.cpp.
    from pipesd_core.llamacpp.loading import announced
    from pipesd_core.llamacpp.probe import check_model_runs
    from pipesd_core.llamacpp.runtime.decoder import TargetDecoder
    from pipesd_core.llamacpp.runtime.engine import EmbeddedEngine

    with announced(config.model):
        check_model_runs(config.model)
        decoder = TargetDecoder(
            config.model,
            n_seq=config.n_seq,
            n_ctx_seq=config.context,
            threads=config.threads,
            step_floor_s=config.step_floor_ms / 1000,
            max_queue=config.max_queue,
        )
    name = config.name or decoder.model.name
    return EmbeddedEngine(decoder, name=name, unknown_parameters=config.unknown_parameters, chat_template=chat_template)
