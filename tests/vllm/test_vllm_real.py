"""vLLM on a real model in float32: SmolLM2 through the agent is, byte for byte, what vLLM writes without a session."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from harness import MODEL
from real_pair import Asked, built, compare, shortest_cells
from vllm_server import HEADERS, KEY, NOISE, VllmServer

from bench.faulty_drafter import WrongDrafter
from pipesd_agent.config import AgentConfig
from pipesd_agent.drafting.drafter import Drafter
from pipesd_agent.drafting.lookup import LookupDrafter
from pipesd_agent.session.settings import SessionSettings
from pipesd_core.llamacpp.binding import Model

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    with VllmServer(tmp_path_factory.mktemp("vllm-real"), target=built("smollm2-vllm")) as running:
        yield running


@pytest.mark.parametrize(
    ("of_each_kind", "tokens", "wrong"),
    [
        pytest.param(1, 16, 0.0, id="short"),
        pytest.param(3, 48, 0.0, id="lookup", marks=pytest.mark.full),
        pytest.param(3, 48, 0.3, id="30 % wrong", marks=pytest.mark.full),
    ],
)
def test_text_is_the_real_targets_own(real_server: VllmServer, of_each_kind: int, tokens: int, wrong: float) -> None:
    drafter: Drafter = LookupDrafter()
    if wrong:
        drafter = WrongDrafter(drafter, wrong)
    config = AgentConfig(
        gateway=real_server.root,
        gateway_api_keys=frozenset({KEY}),
        # A target that does not wait for drafts writes most of an answer alone where the machine is busy.
        session=SessionSettings(free_start=1),
    )
    expected = Asked(real_server.url, MODEL, KEY, NOISE).reference(shortest_cells(of_each_kind), tokens)
    compare(config, drafter, expected, tokens, MODEL)
    assert real_server.engine()["sessions"] == 0


def test_llama_cpp_and_vllm_agree_on_the_vocabulary(real_server: VllmServer) -> None:
    info = httpx.get(f"{real_server.url}/pipesd/info", headers=HEADERS, timeout=30).json()
    with Model(built("smollm2-F16.gguf")) as model:
        assert info["fingerprint"] == model.fingerprint().hex()
