"""Run under .venv-vllm's python by test_vllm_lora.py: a server with LoRA adapters has a configuration by default."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser

from pipesd_core.errors import ConfigError
from pipesd_vllm.cli import server_arguments
from pipesd_vllm.compat.lora import has_room, set_default_tokens

TARGET = sys.argv[1]


def tokens(*flags: str) -> int:
    """`--max-num-batched-tokens` of a server with these flags."""
    arguments = server_arguments(TARGET, ["--enable-lora", "--dtype", "float32", "--max-model-len", "1024", *flags])
    parsed = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser()).parse_args(arguments)
    config = AsyncEngineArgs.from_cli_args(parsed).create_engine_config(UsageContext.OPENAI_API_SERVER)
    return int(config.scheduler_config.max_num_batched_tokens)


def error(*flags: str) -> Exception:
    try:
        tokens(*flags)
    except Exception as error:
        return error
    raise AssertionError(f"{flags} were taken")


def check_stock() -> None:
    """vLLM alone has no right default: where it has one, `set_default_tokens` can go."""
    assert "increasing max_num_batched_tokens" in str(error("--max-num-seqs", "256")), "needless by now"


def check_defaults() -> None:
    set_default_tokens()
    set_default_tokens()
    assert tokens() == 2048
    assert tokens("--max-num-seqs", "256") == 4096
    assert tokens("--max-drafts", "31") == 4096
    assert tokens("--max-num-seqs", "8") == 2048
    assert tokens("--max-num-seqs", "64", "--max-num-batched-tokens", "1024") == 1024
    small = error("--max-num-seqs", "64", "--max-num-batched-tokens", "1023")
    assert isinstance(small, ConfigError), small
    assert "must be at least 1024" in str(small), small


def check_room() -> None:
    def request(adapter: int | None) -> SimpleNamespace:
        return SimpleNamespace(lora_request=None if adapter is None else SimpleNamespace(lora_int_id=adapter))

    one, two = SimpleNamespace(max_loras=1), SimpleNamespace(max_loras=2)
    running = [request(1), request(None), request(1)]
    assert has_room(request(2), running, None)
    assert has_room(request(1), running, one)
    assert has_room(request(None), running, one)
    assert not has_room(request(2), running, one)
    assert has_room(request(2), running, two)
    assert has_room(request(2), [request(None)], one)


if __name__ == "__main__":
    os.environ["VLLM_PLUGINS"] = "none"  # else vLLM loads ours when a configuration is made
    check_room()
    check_stock()
    check_defaults()
    print("right by default")
