"""A target with more padding ids than its draft, as Qwen2.5 7B and 0.5B: fingerprints are equal, vocabularies are not.

A path with an id that the draft lacks is left to the target; no other session may notice.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from harness import DRAFT, LONG, ROOT, AgentThread, Process, agent_thread, complete, gateway, in_parallel, prompts

from pipesd_agent.config import AgentConfig
from pipesd_agent.drafting.llama import LlamaDrafter
from pipesd_agent.drafting.lookup import LookupDrafter
from pipesd_core.llamacpp.binding import Model

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

DEMO = ROOT / "examples" / "demo_pair"
SIZE = 4096
PADDING = 64
INDENT = 268
"""A line break with four spaces: every few tokens of Python."""
TWIN = SIZE + 4
"""The padding id that this target writes instead."""


def padded_target(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo target with padding ids, of which `TWIN` is a little likelier than `INDENT` wherever that is likely."""
    spec = importlib.util.spec_from_file_location("to_gguf", DEMO / "to_gguf.py")
    assert spec is not None
    assert spec.loader is not None
    to_gguf = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "to_gguf", to_gguf)  # dataclasses look their module up
    spec.loader.exec_module(to_gguf)
    read_json, read_safetensors = to_gguf.read_json, to_gguf.read_safetensors

    def padded_json(path: Path) -> Any:
        content = read_json(path)
        return content | {"vocab_size": SIZE + PADDING} if path.name == "config.json" else content

    def padded_tensors(path: Path) -> Iterator[tuple[str, Any]]:
        for name, weight in read_safetensors(path):
            if name == "model.embed_tokens.weight":  # the output matrix as well
                rows = np.zeros((PADDING, weight.shape[1]), np.float32)
                rows[TWIN - SIZE] = 1.05 * weight[INDENT]
                weight = np.concatenate([weight, rows])
            yield name, weight

    monkeypatch.setattr(to_gguf, "read_json", padded_json)
    monkeypatch.setattr(to_gguf, "read_safetensors", padded_tensors)
    to_gguf.convert(DEMO / "target", out, "F32")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("padded")
    with pytest.MonkeyPatch.context() as monkeypatch:
        padded_target(folder / "target.gguf", monkeypatch)
    with gateway(folder, model=folder / "target.gguf") as process:
        yield process


@pytest.fixture(scope="module")
def agent(target: Process) -> Iterator[AgentThread]:
    with agent_thread(AgentConfig(gateway=target.root), LlamaDrafter(DRAFT, capacity=8)) as thread:
        yield thread


def accepted(usage: dict[str, Any]) -> int:
    count: int = usage["pipesd"]["accepted"]
    return count


@pytest.mark.parametrize("parameters", [{"temperature": 0}, {"temperature": 0.7, "seed": 5}], ids=["greedy", "T=0.7"])
def test_only_a_session_with_an_id_that_the_draft_lacks_goes_on_without_it(
    target: Process, agent: AgentThread, parameters: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    in_prompt: Any = [0, 300, TWIN, 301, 302]
    greedy = {"temperature": 0}
    unharmed = (LONG, greedy)  # without that id in prompt and answer
    writing = [(prompt, parameters) for prompt in prompts(3)]
    items = [unharmed, (in_prompt, parameters), *writing, unharmed, (in_prompt, greedy), unharmed]

    def ask(url: str, item: tuple[str, dict[str, Any]]) -> tuple[str, str, dict[str, Any]]:
        return complete(url, item[0], max_tokens=60, **item[1])

    caplog.set_level("INFO", "pipesd_agent.session.stream")
    target_only = [ask(target.url, item) for item in items]
    answers = in_parallel(lambda item: ask(agent.url, item), items, 4)
    assert [answer[:2] for answer in answers] == [answer[:2] for answer in target_only]
    for (prompt, _), (_, _, usage) in zip(items, answers, strict=True):
        if prompt == LONG:
            assert accepted(usage) > 0, "drafting ended for all"
        elif prompt == in_prompt:
            assert accepted(usage) == 0
    assert caplog.text.count("served cloud-only") == 2, "of the prompts that hold it"
    assert caplog.text.count("does not have a token id") >= 1, "of the answers that do"
    assert accepted(ask(agent.url, unharmed)[2]) > 0


def test_prompt_lookup_drafts_any_id(target: Process) -> None:
    prompt: Any = [0, *[300, TWIN, 301, 302] * 5]
    expected = complete(target.url, prompt, max_tokens=40, temperature=0)
    with agent_thread(AgentConfig(gateway=target.root), LookupDrafter()) as agent:
        text, reason, usage = complete(agent.url, prompt, max_tokens=40, temperature=0)
    assert (text, reason) == expected[:2]
    assert usage["completion_tokens"] == expected[2]["completion_tokens"]


def test_the_pair_is_what_it_is_meant_to_be(target: Process) -> None:
    info = httpx.get(f"{target.root}/v1/pipesd/info", timeout=10).json()
    with Model(DRAFT) as draft:
        assert draft.n_vocab == SIZE
        assert info["n_vocab"] == SIZE + PADDING
        assert info["fingerprint"] == draft.fingerprint().hex()
