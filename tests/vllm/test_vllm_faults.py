"""Every fault that an agent's link, its process and its clients can have, within one real vLLM server's lifetime.

Judged as in tests/e2e/test_fault_suite.py; afterwards nothing of it is left in the scheduler or in vLLM.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from fault_clients import Crowd, End, answered_by, questions
from fault_plan import GRACE_S, Kind, one_by_one
from fault_report import Run, Uploads, bounds, ends, outcomes, write
from fault_world import Agent, World
from harness import DRAFT, in_parallel, wait_until
from vllm_server import HEADERS, KEY, NOISE, VllmServer

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

SEED = 4
CLIENTS = 6
GAUGES = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "pipesd_engine_sequences_open",
)


def gauges(server: VllmServer) -> dict[str, float]:
    """Figures of vLLM's /metrics."""
    text = httpx.get(f"{server.root}/metrics", timeout=30).text
    found = {name: re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE) for name in GAUGES}
    return {name: sum(map(float, values)) for name, values in found.items() if values}


def test_faults_of_links_agents_and_clients(tmp_path: Path) -> None:
    with VllmServer(tmp_path, "--grace", str(GRACE_S)) as server:
        answered = partial(answered_by, server.url, headers=HEADERS, **NOISE)
        cases = in_parallel(answered, questions(), 4)
        keys = tmp_path / "keys"
        keys.write_text(KEY)
        flags = ("--gateway-api-key-file", str(keys), "--draft-model", str(DRAFT), "--capacity", "16")
        agent = Agent(tmp_path, "agent", urlsplit(server.root).port or 0, flags, SEED)
        try:
            run = World([agent])
            run.connected()
            requests = asyncio.run(run.live(Crowd(SEED, cases), one_by_one(SEED), CLIENTS))
            run.connected()
            uploads = Uploads.of(agent.sent())
        finally:
            agent.close()
        story = Run(SEED, requests, run.happened, run.killed)
        story.check()
        wait_until(lambda: server.engine()["sessions"] == 0, GRACE_S + 20)
        wait_until(lambda: not any(gauges(server).values()), 20)
        left = gauges(server)
        assert set(left) == set(GAUGES)
        engine = server.engine()
        assert engine["parked"] == engine["evicted"] == 0
    reported = ", ".join(f"`{name}` {value:g}" for name, value in left.items())
    figures = f"{outcomes(story)}\n\n{ends(story, uploads)} The bound of a request: {bounds()}."
    write("vllm", f"{figures} Afterwards: sessions 0, parked 0, {reported}.")

    happened = Counter(fault.kind for fault in run.happened)
    assert happened.total() >= 10
    assert set(happened) == set(Kind) - {Kind.KILL_GATEWAY}
    assert uploads.resumed > 10
    assert sum(judged.end is End.RIGHT and bool(judged.met) for judged in story.judged) > 30, "this proves little"
