from __future__ import annotations

from pipesd_core.engine.interface import ModelInfo
from pipesd_gateway.info_api import info_body


def test_the_facts_about_a_target() -> None:
    assert info_body(ModelInfo("big", 32_000, bytes(15) + b"\x01", 2048, 16)) == {
        "model": "big",
        "fingerprint": "00" * 15 + "01",
        "n_vocab": 32_000,
        "max_context": 2048,
        "max_drafts": 16,
        "protocol": "pipesd.v1",
    }
