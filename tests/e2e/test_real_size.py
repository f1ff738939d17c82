"""What a model of SmolLM2's size shakes out: a context of 8,192 positions, a vocabulary of 49,152 tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import httpx
import pytest
from harness import gateway, openai_error
from real_pair import NAME, Asked, Cell, built, compare

from bench.proving.traces.workloads import Work
from pipesd_agent.config import AgentConfig
from pipesd_agent.drafting.lookup import LookupDrafter
from pipesd_core.llamacpp.binding import Context, Model
from pipesd_core.protocol.messages import Endpoint

pytestmark = [pytest.mark.e2e, pytest.mark.full, pytest.mark.timeout(1800)]

POSITIONS: Final = 8192
SENTENCE: Final = "The keeper of the lighthouse counts the ships that pass by, number after number. "
"""16 tokens."""


def question(sentences: int) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": SENTENCE * sentences + "\nSummarize this."}]}


def test_a_prompt_that_fills_the_context(tmp_path: Path) -> None:
    with gateway(tmp_path, "--context", str(POSITIONS), "--n-seq", "1", model=built("smollm2-F16.gguf")) as target:
        cells = [Cell(Work("long", Endpoint.CHAT_COMPLETIONS, question(490)), 0.0)]
        expected = Asked(target.url).reference(cells, 32)
        compare(AgentConfig(gateway=target.root), LookupDrafter(), expected, 32)
        answer = httpx.post(f"{target.url}/chat/completions", json={"model": NAME} | question(600), timeout=60)
        error = openai_error(answer, 400)
        assert error["code"] == "context_length_exceeded"
        assert f"the context is {POSITIONS} tokens" in error["message"]


@pytest.mark.parametrize("n_seq", [1, 4, 8])
def test_a_context_takes_the_memory_that_was_estimated(n_seq: int) -> None:
    with Model(built("smollm2-F16.gguf")) as model:
        estimated = model.shape.context_bytes(2048, n_seq, 512)
        before = resident()
        with Context(model, n_ctx=2048 * n_seq, n_seq=n_seq, n_batch=512) as context:
            context.decode([1] * 512, range(512), 0, True)
            taken = resident() - before
    print(f"{n_seq} sequences of 2048: estimated {estimated / 1e6:.0f} MB, taken {taken / 1e6:.0f} MB")
    assert 0.8 * estimated < taken < 1.2 * estimated


def resident() -> int:
    """Bytes of this process's anonymous memory."""
    (line,) = (line for line in Path("/proc/self/status").read_text().split("\n") if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])
