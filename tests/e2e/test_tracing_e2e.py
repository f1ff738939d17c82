"""`pipesd-agent start --trace DIR`: what a live agent recorded is in the tables of the same requests."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from agreeing import differing
from harness import agent_process, gateway

from bench.proving.traces.live import figures, read_all, rows
from bench.proving.traces.recorded import recorded
from bench.proving.traces.table import UNKNOWN
from bench.proving.traces.workloads import workload

pytestmark = pytest.mark.e2e

FIRST_SEED = 1000
SOME = (0, 1, 2)


@pytest.mark.parametrize(("name", "temperature"), [("humaneval", 0.0), ("chat", 1.0)])
def test_live_rows_are_those_of_the_tables(tmp_path: Path, name: str, temperature: float) -> None:
    folder = tmp_path / "traces"
    works = workload(name)
    with gateway(tmp_path) as target, agent_process(tmp_path, target.root, "--trace", str(folder)) as agent:
        for number in SOME:
            work = works[number]
            body = work.body(temperature=temperature, seed=FIRST_SEED + number, max_tokens=96, stream=number == 1)
            url = f"{agent.root}{'/v1/completions' if 'prompt' in work.ask else '/v1/chat/completions'}"
            httpx.post(url, content=body, timeout=60).raise_for_status()
    found = read_all(folder)
    assert len(found) == len(SOME), "written by the time that the agent has ended"
    for number, live in zip(SOME, found, strict=True):
        table, trace = recorded(name, temperature).traces[number], rows(live)
        assert live.whole
        assert live.seed == FIRST_SEED + number
        assert trace.prompt_length == table.prompt_length
        assert trace.tokens.tolist() == table.tokens.tolist()
        assert (trace.drafts[:, 0] != UNKNOWN).mean() > 0.5
        assert differing(trace, table) < 0.5
        assert figures(live)["tokens"] == len(table.tokens)
