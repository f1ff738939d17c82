"""An agent of an earlier version works with the gateway of this one, and the other way round, or is refused by name.

The earlier programs are those of commit a352dc0, kept as an archive of their sources, since a clone need not have the
history. When libraries or the protocol have moved on so far that they start no more, the archive is replaced by one of
a later commit (`git archive --format=tar COMMIT core/src gateway/src edge_agent/src | xz -9e`), and CHANGELOG.md says
which versions do not work together.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import DRAFT, MODEL, ROOT, TARGET, Process, complete, prompts

pytestmark = pytest.mark.e2e

ARCHIVE = ROOT / "tests" / "helpers" / "kept" / "programs-a352dc0.tar.xz"
DISTRIBUTIONS = ("core", "gateway", "edge_agent")


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which `python -m pipesd_...` is the earlier program."""
    sources = tmp_path_factory.mktemp("earlier")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(sources, filter="data")
    return {"PYTHONPATH": os.pathsep.join(str(sources / name / "src") for name in DISTRIBUTIONS)}


@contextmanager
def _running(log: Path, env: dict[str, str], module: str, *arguments: str) -> Iterator[Process]:
    process = Process(module, *arguments, "--port", "0", "--drain-timeout", "0", log=log, env=env)
    try:
        yield process
    finally:
        process.stop()


@pytest.fixture(scope="module", params=["agent", "gateway"])
def pair(
    request: pytest.FixtureRequest, earlier: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Process, Process]]:
    """A gateway and an agent, one of which is of the earlier version."""
    folder = tmp_path_factory.mktemp("pair")
    gateway_env, agent_env = ({}, earlier) if request.param == "agent" else (earlier, {})
    serve = ("pipesd_gateway", "serve", "--model", str(TARGET))
    with _running(folder / "gateway.log", gateway_env, *serve) as gateway:
        config = folder / "agent.toml"
        config.write_text("[session]\nfree_start = 1\n")  # so that it drafts on a busy machine too
        start = ("pipesd_agent", "start", "--gateway", gateway.url, "--mode", "collaborative", "--config", str(config))
        with _running(folder / "agent.log", agent_env, *start, "--draft-model", str(DRAFT)) as agent:
            yield gateway, agent


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 0.8, "seed": 7}], ids=["greedy", "sampled"])
def test_the_text_is_the_targets_own(pair: tuple[Process, Process], sampling: dict[str, Any]) -> None:
    gateway, agent = pair
    drafted = 0
    for number, prompt in enumerate(prompts(4)):
        parameters = {"stream": number % 2 == 1, "max_tokens": 48, **sampling}
        text, reason, usage = complete(agent.url, prompt, **parameters)
        assert (text, reason) == complete(gateway.url, prompt, **parameters)[:2]
        drafted += usage["pipesd"]["drafted"]
    assert drafted > 0


def test_what_cannot_be_drafted_for_passes(pair: tuple[Process, Process]) -> None:
    gateway, agent = pair
    body = {"model": MODEL, "prompt": prompts(1)[0], "max_tokens": 16, "n": 2, "seed": 3}
    texts = [
        sorted(choice["text"] for choice in httpx.post(f"{url}/completions", json=body, timeout=60).json()["choices"])
        for url in (agent.url, gateway.url)
    ]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 2


def test_errors_pass(pair: tuple[Process, Process]) -> None:
    gateway, agent = pair
    body = {"model": MODEL, "prompt": "a", "temperature": 17}
    refusals = [httpx.post(f"{url}/completions", json=body, timeout=60) for url in (agent.url, gateway.url)]
    assert [refusal.status_code for refusal in refusals] == [400, 400]
    assert [refusal.json()["error"]["param"] for refusal in refusals] == ["temperature", "temperature"]
