"""Run under .venv-vllm's python by test_vllm_conformance.py: the vLLM engine follows the rules of engines.

The engine is the one that `PipesdEndpoint` makes, over vLLM's own serving code and engine core, in this process and the
one that vLLM spawns; what is not there is HTTP. Prints a line for each rule.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TARGET = ROOT / "examples" / "demo_pair" / "target"
RULE_S = 120.0
"""Longest time for one rule."""
PROMPT = "0, " * 40
ENDING = "<|user|>Hi<|assistant|>"
"""Its answer ends with EOS after 111 tokens."""
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
FLAGS = (
    *("--served-model-name", "pipesd-demo-target"),
    *("--dtype", "float32"),
    *("--max-model-len", "512"),
    *("--max-num-seqs", "8"),
    *("--block-size", "32"),
    "--enforce-eager",
)


def arguments() -> Any:
    """Those of vLLM's server, as `pipesd-vllm serve` gives them to it."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from pipesd_vllm.cli import server_arguments
    from pipesd_vllm.runner_choice import V1, V2

    runner = V2 if os.environ.get("PIPESD_V2_BED") else V1
    args = make_arg_parser(FlexibleArgumentParser()).parse_args(server_arguments(str(TARGET), FLAGS, runner))
    validate_parsed_serve_args(args)
    return args


async def check(names: list[str]) -> int:
    """Follow all rules, or those named; returns how many were broken."""
    from engine_rules import CLOSING_RULES, RULES, NotOffered, Subject
    from starlette.datastructures import State
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client

    from pipesd_vllm.compat.core import Core
    from pipesd_vllm.compat.serving import Serving
    from pipesd_vllm.engine import VllmEngine
    from pipesd_vllm.metrics import PluginMetrics

    args = arguments()
    broken = 0
    async with build_async_engine_client(args) as client:
        state = State()
        await init_app_state(client, state, args, await client.get_supported_tasks())
        serving, core = Serving(client, state), Core(client)
        tokenizer = client.renderer.tokenizer
        for rule in [*RULES, *CLOSING_RULES]:
            if names and rule.__name__ not in names:
                continue
            engine = VllmEngine(PluginMetrics(), lambda: None)
            engine.start(serving, core)
            subject = Subject(
                engine,
                prompt=tuple(tokenizer.encode(PROMPT)),
                ending=tuple(tokenizer.encode(ENDING)),
            )
            began = time.monotonic()
            try:
                async with asyncio.timeout(RULE_S):
                    await rule(subject)
                word = "ok"
            except NotOffered as reason:
                word = f"not offered: {reason}"
            except Exception:
                broken += 1
                word = f"BROKEN\n{traceback.format_exc()}"
            finally:
                await engine.aclose()
            print(f"rule {rule.__name__}: {word} ({time.monotonic() - began:.1f} s)", flush=True)
        await asyncio.sleep(1.0)  # the last aborts are on their way
        figures = await core.stats()
        left = {name: figures[name] for name in ("sessions", "parked") if figures[name]}
        if left:
            broken += 1
            print(f"the scheduler still has {left}")
    return broken


def main() -> int:
    from pipesd_vllm import park_keys
    from pipesd_vllm.cli import plugins

    os.environ.update(ENVIRONMENT)
    park_keys.ensure_secret()
    os.environ["VLLM_PLUGINS"] = plugins(os.environ)
    broken = asyncio.run(check(sys.argv[1:]))
    print("all rules are followed" if not broken else f"{broken} rules are broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests" / "conformance"))
    raise SystemExit(main())
