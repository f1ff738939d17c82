"""`pipesd-agent`: the command line of the edge agent, and a chat in a terminal."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipesd_agent.config import KEYS, PROGRAM, AgentConfig, load
from pipesd_core.service.api_keys import Keys
from pipesd_core.service.flags import strict
from pipesd_core.service.hosts import names_of
from pipesd_core.service.lifecycle import Lifecycle
from pipesd_core.service.program import listen, load_in_thread, run, run_program
from pipesd_core.service.settings import HELP, LOG_LEVELS, ShowVersion, help_format, parse_keys, read_keys
from pipesd_core.service.sockets import is_loopback
from pipesd_core.service.startup import answering_while_starting

if TYPE_CHECKING:
    from pipesd_agent.agent import Agent

logger = logging.getLogger(__name__)

WEB_MODULES: Final = ("pipesd_agent.api.app", "pipesd_core.service.server", "pipesd_core.service.limits")
"""Modules that import a web framework."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code."""
    return run("pipesd-agent", lambda: _command(argv))


def _command(argv: Sequence[str] | None) -> int:
    flags = vars(_parser().parse_args(argv))
    command = flags.pop("command")
    return run("pipesd-agent chat", lambda: _chat(flags)) if command == "chat" else _start(flags)


def _start(flags: dict[str, Any]) -> int:
    file = flags.pop("config", None)
    config = load(flags, os.environ, file)
    return run_program("pipesd-agent", config.log_level, _serve(config), config.log_format)


def _chat(flags: dict[str, Any]) -> int:
    from pipesd_agent.chat import chat

    key = _client_key(flags.pop("api_key_file"), os.environ)
    return chat(**flags, api_key=key)


def _client_key(file: Path | None, environ: Mapping[str, str]) -> str | None:
    """The API key for `chat`: one of the file, or else of the environment; None: none is sent. Raises ConfigError."""
    if file is not None:
        return min(read_keys(file))
    if (text := environ.get(KEYS.variable)) is None:
        return None
    return min(parse_keys(text, f"the environment variable {KEYS.variable}"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pipesd-agent", description="The edge agent of PipeSD: drafts on the device, verifies at a gateway."
    )
    parser.add_argument("--version", action=ShowVersion, help="print the version and end")
    commands = parser.add_subparsers(dest="command", required=True)
    # SUPPRESS: a flag that was not given is absent, so that it cannot hide what the file says.
    start = commands.add_parser(
        "start",
        help="serve the OpenAI API on localhost, drafting here and verifying at a gateway",
        argument_default=argparse.SUPPRESS,
        usage="pipesd-agent start [flags]",
        description="Serve the OpenAI API on localhost, drafting here and verifying at a gateway.",
        epilog=HELP.format(prefix=PROGRAM.prefix),
        formatter_class=help_format,
    )
    add = strict(start).add_argument
    add(
        "--gateway",
        action="append",
        metavar="URL",
        help="gateway; repeated: failover, in order (http://127.0.0.1:8100)",
    )
    add("--draft-model", type=Path, metavar="FILE", help="GGUF draft model; none: prompt lookup drafts")
    add("--config", metavar="FILE", type=Path, help="TOML configuration file")
    add(
        "--mode",
        choices=("auto", "collaborative", "cloud", "edge"),
        metavar="MODE",
        help="collaborative; cloud: target only; edge: draft model only; auto: the better of the first two (auto)",
    )
    add(
        "--objective",
        choices=("latency", "offload"),
        metavar="WHAT",
        help="what mode auto minimises: latency, or offload: steps of the target (latency)",
    )
    add(
        "--fallback",
        choices=("error", "edge"),
        metavar="WHAT",
        help="when the cloud is gone: error, or edge: the draft model answers (error)",
    )
    add("--gateway-api-key-file", type=Path, metavar="FILE", help="file with the API key to send to the gateway")
    add("--ca-file", type=Path, metavar="FILE", help="certificate authority of wss:// gateways")
    add("--api-key-file", type=Path, metavar="FILE", help="file with one API key per line; reloaded on change")
    add("--host", metavar="HOST", help="address to listen on (127.0.0.1)")
    add("--port", type=int, metavar="N", help="port to listen on; 0: a free one (8101)")
    add("--capacity", type=int, metavar="N", help="clients drafted for at once (4)")
    add("--context", type=int, metavar="N", help="context of each client, tokens (2048)")
    add("--threads", type=int, metavar="N", help="threads of llama.cpp (1)")
    add("--gpu-layers", type=int, metavar="N", help="layers of the draft model on a GPU; -1: all (0)")
    add(
        "--unknown-parameters",
        choices=("refuse", "ignore"),
        metavar="WHAT",
        help="what is done with unknown parameters: refuse, or ignore and say so (refuse)",
    )
    add("--cors-origin", action="append", metavar="URL", help="web origin allowed to call the API (none)")
    add("--allowed-host", action="append", metavar="NAME", help="host name to answer to (see docs/operation.md)")
    add("--drain-timeout", type=float, metavar="S", help="seconds for running requests after SIGTERM (30)")
    add("--keep-alive", type=int, metavar="S", help="seconds until an idle connection is closed (75)")
    add("--trace", type=Path, metavar="DIR", help="folder for traces, token ids included (off)")
    add("--log-level", choices=LOG_LEVELS, metavar="LEVEL", help=f"{', '.join(LOG_LEVELS)} (info)")
    add(
        "--log-format",
        choices=("text", "json"),
        metavar="FORMAT",
        help="text, or json: one JSON object per line (text)",
    )
    talk = strict(commands.add_parser("chat", help="talk to a running agent"))
    talk.add_argument("--url", default="http://127.0.0.1:8101/v1", help="the agent's API (%(default)s)")
    talk.add_argument(
        "--api-key-file", metavar="FILE", type=Path, help=f"file with the agent's API key (or {KEYS.variable})"
    )
    talk.add_argument("--model", default=None, help="model (the first that the agent lists)")
    talk.add_argument("--temperature", type=float, default=None)
    talk.add_argument("--max-tokens", type=int, default=None)
    return parser


def _make_agent(config: AgentConfig) -> Agent:
    """Make the agent, then import the web framework, so that neither the model nor `/health` waits for that."""
    from pipesd_agent.build import make_agent

    agent = make_agent(config)
    for module in WEB_MODULES:  # in this thread: `_serve`, which needs them next, runs on the event loop
        import_module(module)
    return agent


async def _serve(config: AgentConfig) -> None:
    listener = listen(config.host, config.port)  # before the model: a taken port is known at once
    hosts = names_of(config.allowed_host, loopback=is_loopback(listener))
    try:
        async with answering_while_starting(listener, hosts=hosts):
            agent = await load_in_thread(lambda: _make_agent(config))
    except BaseException:
        listener.close()
        raise
    from pipesd_agent.api.app import create_app
    from pipesd_core.service.server import Server

    keys = Keys(config.api_keys, config.api_key_file)
    if not keys.required and not is_loopback(listener):
        logger.warning("listening on %s without an API key: everybody who reaches it may use it", config.host)
    lifecycle = Lifecycle()
    server = Server(
        create_app(
            agent,
            keys=keys,
            lifecycle=lifecycle,
            cors_origins=config.cors_origin,
            hosts=hosts,
            unknown_parameters=config.unknown_parameters,
        ),
        agent.aclose,
        log_level=config.log_level,
        lifecycle=lifecycle,
        drain_timeout_s=config.drain_timeout,
        keep_alive_s=config.keep_alive,
    )
    await server.run_on(listener)
