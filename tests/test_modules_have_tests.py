"""Every module has a test module of its name in the folder that mirrors its package, or a line that says where else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from repository import ROOT

DISTRIBUTIONS: Final = {
    "core/src/pipesd_core": ("core", "core"),
    "gateway/src/pipesd_gateway": ("gateway", "gateway"),
    "edge_agent/src/pipesd_agent": ("agent", "agent"),
    "vllm_plugin/src/pipesd_vllm": ("plugin", "vllm"),
}
"""By sources: the folder of the tests, and what a test's name may begin with where another test has the short one."""
ELSEWHERE: Final = {
    # Declarations: what implements or uses them is tested.
    "core/src/pipesd_core/engine/interface.py": "tests/conformance/engine_rules.py",
    "core/src/pipesd_core/protocol/websocket.py": "tests/agent/link/test_link.py",
    "core/src/pipesd_core/sampling/params.py": "tests/core/sampling/test_sampler.py",
    "gateway/src/pipesd_gateway/orders.py": "tests/gateway/test_gateway_session.py",
    "edge_agent/src/pipesd_agent/answer.py": "tests/agent/api/test_app.py",
    "edge_agent/src/pipesd_agent/control/figures.py": "tests/agent/api/test_metrics.py",
    "edge_agent/src/pipesd_agent/drafting/drafter.py": "tests/agent/drafting/test_worker.py",
    "edge_agent/src/pipesd_agent/session/cannot_splice.py": "tests/agent/session/test_splice.py",
    "edge_agent/src/pipesd_agent/session/actions.py": "tests/agent/session/test_agent_session.py",
    "edge_agent/src/pipesd_agent/session/policies.py": "tests/agent/session/test_agent_session.py",
    "edge_agent/src/pipesd_agent/session/remote_error.py": "tests/agent/session/test_agent_session.py",
    # Parts of one thing, tested as one thing.
    "core/src/pipesd_core/llamacpp/openai/fields.py": "tests/core/llamacpp/openai/test_request.py",
    "core/src/pipesd_core/llamacpp/openai/prompt.py": "tests/core/llamacpp/openai/test_request.py",
    "core/src/pipesd_core/service/internals.py": "tests/core/service/test_uvicorn_compat.py",
    "core/src/pipesd_core/service/openapi.py": "tests/protocol/test_openapi.py",
    "gateway/src/pipesd_gateway/agent_socket.py": "tests/gateway/test_agents.py",
    "gateway/src/pipesd_gateway/limits.py": "tests/gateway/test_gateway_session.py",
    "edge_agent/src/pipesd_agent/build.py": "tests/agent/test_agent.py",
    "edge_agent/src/pipesd_agent/control/controller.py": "tests/bench/simulator/test_started.py",
    "edge_agent/src/pipesd_agent/link/address.py": "tests/agent/test_agent_config.py",
    "edge_agent/src/pipesd_agent/link/connection.py": "tests/agent/link/test_link.py",
    "edge_agent/src/pipesd_agent/link/dialing.py": "tests/agent/link/test_link.py",
    "edge_agent/src/pipesd_agent/link/requests.py": "tests/agent/link/test_link.py",
    "edge_agent/src/pipesd_agent/local/answer.py": "tests/agent/local/test_model.py",
    "edge_agent/src/pipesd_agent/session/settings.py": "tests/agent/session/test_agent_session.py",
    "edge_agent/src/pipesd_agent/session/state/drafting.py": "tests/agent/session/test_agent_session.py",
    "edge_agent/src/pipesd_agent/tuning/settings.py": "tests/agent/test_agent_config.py",
    "edge_agent/src/pipesd_agent/tuning/optimizers/choice.py": "tests/agent/tuning/test_optimizers.py",
    "edge_agent/src/pipesd_agent/tuning/optimizers/compass.py": "tests/agent/tuning/test_optimizers.py",
    "edge_agent/src/pipesd_agent/tuning/optimizers/gaussian_process.py": "tests/agent/tuning/test_gaussian_process.py",
    "edge_agent/src/pipesd_agent/tuning/search.py": "tests/agent/tuning/test_threshold_search.py",
    # Programs, and what runs with the real llama.cpp or vLLM only.
    "core/src/pipesd_core/engine/fake.py": "tests/conformance/test_fake_engine.py",
    "core/src/pipesd_core/sampling/torch_noise.py": "tests/vllm/test_vllm_draw.py",
    "edge_agent/src/pipesd_agent/drafting/llama.py": "tests/agent/drafting/test_llama_drafter.py",
    "vllm_plugin/src/pipesd_vllm/endpoint.py": "tests/vllm/test_vllm_serving.py",
    "vllm_plugin/src/pipesd_vllm/engine.py": "tests/vllm/test_vllm_conformance.py",
    "vllm_plugin/src/pipesd_vllm/generation.py": "tests/vllm/test_vllm_conformance.py",
    "vllm_plugin/src/pipesd_vllm/plugin.py": "tests/vllm/test_vllm_serving.py",
    "vllm_plugin/src/pipesd_vllm/compat/outputs.py": "tests/vllm/test_vllm_outputs.py",
    "vllm_plugin/src/pipesd_vllm/compat/scheduler.py": "tests/vllm/test_vllm_parking.py",
    **{
        f"vllm_plugin/src/pipesd_vllm/compat/{name}.py": "tests/vllm/test_vllm_v2.py"
        for name in ("runners", "speculator", "verifier")
    },
    **{
        f"vllm_plugin/src/pipesd_vllm/compat/{name}.py": "tests/vllm/test_vllm_compat.py"
        for name in (
            *("core", "cpu", "drafted_rows", "ending", "lora", "orphan"),
            *("proposer", "sampler", "server", "serving"),
        )
    },
}
"""Modules without a test module of their name, and the one that holds them."""


def modules() -> Iterator[tuple[Path, Path, str]]:
    """(module, the folder for its tests, prefix of its distribution)."""
    for sources, (tests, prefix) in DISTRIBUTIONS.items():
        for path in sorted((ROOT / sources).rglob("*.py")):
            if not path.name.startswith("__"):
                folder = ROOT / "tests" / tests / path.parent.relative_to(ROOT / sources)
                yield path, folder, prefix


def has_test(path: Path, folder: Path, prefix: str) -> bool:
    names = (path.stem, f"{prefix}_{path.stem}", f"{path.parent.name}_{path.stem}")
    engine = ROOT / "tests" / "conformance" / f"test_{path.parent.name}_engine.py"
    return any((folder / f"test_{name}.py").exists() for name in names) or (path.stem == "engine" and engine.exists())


@pytest.mark.parametrize(
    ("path", "folder", "prefix"), list(modules()), ids=[str(path.relative_to(ROOT)) for path, *_ in modules()]
)
def test_a_module_has_a_test_module_or_is_named_as_tested_elsewhere(path: Path, folder: Path, prefix: str) -> None:
    name = path.relative_to(ROOT).as_posix()
    if has_test(path, folder, prefix):
        assert name not in ELSEWHERE, "it has a test module of its own"
    else:
        assert name in ELSEWHERE, f"tests/… test_{path.stem}.py is missing"
        assert (ROOT / ELSEWHERE[name]).exists()


def test_the_list_is_of_modules() -> None:
    assert ELSEWHERE.keys() <= {path.relative_to(ROOT).as_posix() for path, *_ in modules()}
