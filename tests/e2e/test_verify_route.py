"""The verify route of a real gateway says what its target writes."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from harness import LONG, gateway, openai_error
from verifying import check

pytestmark = pytest.mark.e2e


def test_the_targets_word_on_drafts(tmp_path: Path) -> None:
    with gateway(
        tmp_path, "--max-queue", "1", "--log-level", "warning", env={"PIPESD_GATEWAY_API_KEY": "secret"}
    ) as target:
        headers = {"Authorization": "Bearer secret"}
        assert check(target.root, headers, 6) == 6 * 3 * 11
        route = f"{target.root}/v1/pipesd/verify"
        bad = {"requests": [{"prompt": [1], "drafts": []}, {"prompt": [1], "drafts": [4096]}]}
        error = openai_error(httpx.post(route, json=bad, headers=headers), 400)
        assert error["param"] == "requests[1].drafts[0]"
        openai_error(httpx.post(route, json=bad), 401)
        # Nothing of the batches is left in the engine.
        body = {"prompt": LONG, "max_tokens": 4}
        assert httpx.post(f"{target.url}/completions", json=body, headers=headers, timeout=30).status_code == 200
