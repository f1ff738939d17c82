"""The `vllm.general_plugins` entry point: runs in every process of a vLLM server."""

from __future__ import annotations

from pipesd_vllm import park_keys


def register() -> None:
    """Give the server a secret, the engine core its `pipesd_*` calls, its clients our field of their messages and model
    runner V2 our speculator.

    Harmless when repeated.
    """
    park_keys.ensure_secret()
    from pipesd_vllm.compat import runners
    from pipesd_vllm.compat.core import extend_engine_core
    from pipesd_vllm.compat.lora import set_default_tokens
    from pipesd_vllm.compat.outputs import extend_client

    extend_engine_core()
    extend_client()
    set_default_tokens()
    runners.prepare()
