"""The gateway's limit of sessions per API key, as the client of an agent sees it."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import LONG, Asking, agent_process, gateway, slow_agent

pytestmark = pytest.mark.e2e


def test_one_too_many_is_a_429_over_all_agents_of_a_key(tmp_path: Path) -> None:
    with (
        gateway(tmp_path, "--max-sessions-per-key", "1", "--step-floor-ms", "20") as target,
        slow_agent(tmp_path, target.root) as one,
        agent_process(tmp_path, target.root) as other,
    ):
        first = Asking(one.url, LONG, max_tokens=100, temperature=0)
        assert first.first.wait(30)
        refused = Asking(other.url, LONG, max_tokens=4).wait(30)
        assert refused.status == 429
        assert refused.headers is not None
        assert refused.headers["retry-after"] == "1"
        assert refused.error is not None
        assert "1 sessions are open on this server" in refused.error["message"]
        assert first.wait(60).complete
        assert Asking(other.url, LONG, max_tokens=4).wait(30).complete
