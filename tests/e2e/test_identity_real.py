"""Lossless on a real model: what a client gets through the agent is, byte for byte, what SmolLM2 alone writes.

F16 weights in CI, F32 in the long form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import pytest
from harness import Process, gateway
from real_pair import AT_ONCE, Asked, Cell, Reference, built, compare, shortest_cells

from bench.faulty_drafter import WrongDrafter
from bench.proving.traces.workloads import REAL_KINDS, real_prompts
from pipesd_agent.config import AgentConfig
from pipesd_agent.drafting.drafter import Drafter
from pipesd_agent.drafting.llama import LlamaDrafter
from pipesd_agent.drafting.lookup import LookupDrafter
from pipesd_agent.session.settings import SessionSettings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    yield from _target(tmp_path_factory, "F16")


@pytest.fixture(scope="module")
def exact_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    yield from _target(tmp_path_factory, "F32")


def _target(tmp_path_factory: pytest.TempPathFactory, weights: str) -> Iterator[Process]:
    model = built(f"smollm2-{weights}.gguf")
    with gateway(
        tmp_path_factory.mktemp("gateway"), "--n-seq", str(AT_ONCE), "--log-level", "warning", model=model
    ) as process:
        yield process


@pytest.fixture(scope="module")
def expected(target: Process) -> Reference:
    return Asked(target.url).reference(shortest_cells(3), 64)


SHORT: Final = SessionSettings(window=2)
"""Drafts further ahead are mostly wrong: they take time here, and prove no more."""
DRAFTERS: Final[dict[str, Callable[[], Drafter]]] = {
    "lookup": lambda: LookupDrafter(capacity=AT_ONCE),
    "draft": lambda: LlamaDrafter(built("smollm2-draft.gguf"), capacity=AT_ONCE),
    "draft, 30 % wrong": lambda: WrongDrafter(LlamaDrafter(built("smollm2-draft.gguf"), capacity=AT_ONCE), 0.3),
}


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_text_is_the_real_targets_own(target: Process, expected: Reference, drafter: str) -> None:
    compare(AgentConfig(gateway=target.root, session=SHORT), DRAFTERS[drafter](), expected, 64)


@pytest.mark.full
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_text_is_the_real_targets_own_in_float32(exact_target: Process, drafter: str) -> None:
    expected = Asked(exact_target.url).reference(shortest_cells(3), 48)
    compare(AgentConfig(gateway=exact_target.root), DRAFTERS[drafter](), expected, 48)


@pytest.mark.full
@pytest.mark.parametrize("kind", REAL_KINDS)
def test_all_prompts_once(target: Process, kind: str) -> None:
    cells = [Cell(work, 0.0) for work in real_prompts(kind)]
    compare(AgentConfig(gateway=target.root), LookupDrafter(), Asked(target.url).reference(cells, 64), 64)
