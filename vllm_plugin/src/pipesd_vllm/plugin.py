"""The `vllm.general_plugins` entry point: runs in every process of a vLLM server."""

from __future__ import annotations

from pipesd_vllm import park_keys


def register() -> None:
    """Give the server a secret and the engine core its `pipesd_*` calls. Harmless when repeated."""
    park_keys.ensure_secret()
    from pipesd_vllm.compat.core import extend_engine_core
    from pipesd_vllm.compat.lora import set_default_tokens

    extend_engine_core()
    set_default_tokens()
