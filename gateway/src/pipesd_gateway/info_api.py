"""`GET /v1/pipesd/info`: the facts about a gateway's target that an agent asks for before it connects."""

from __future__ import annotations

from typing import Any

from pipesd_core.engine.interface import ModelInfo
from pipesd_core.protocol.messages import SUBPROTOCOL


def info_body(info: ModelInfo) -> dict[str, Any]:
    """The JSON object of the answer; a server may add an `engine` with figures of its own."""
    return {
        "model": info.name,
        "fingerprint": info.fingerprint.hex(),
        "n_vocab": info.n_vocab,
        "max_context": info.max_context,
        "max_drafts": info.max_drafts,
        "protocol": SUBPROTOCOL,
    }
