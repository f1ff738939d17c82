"""The verify route of a vLLM server says what the server's own sessions write."""

from __future__ import annotations

import httpx
import pytest
from harness import MODEL, openai_error, wait_until
from verifying import check
from vllm_server import HEADERS, VllmServer

pytest_plugins = ("vllm_fixture",)
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]


def test_the_targets_word_on_drafts(server: VllmServer) -> None:
    assert check(server.root, HEADERS, 6) == 6 * 3 * 11
    wait_until(lambda: server.engine()["sessions"] == 0)


@pytest.mark.parametrize(
    ("request_", "status", "param"),
    [
        ({"prompt": [1], "drafts": [4096]}, 400, "requests[0].drafts[0]"),
        ({"prompt": [-1], "drafts": []}, 400, "requests[0].prompt[0]"),
        ({"prompt": [1], "drafts": [1] * 16}, 400, "requests[0].drafts"),
        ({"prompt": [1] * 1020, "drafts": [1] * 4}, 400, "requests[0]"),
        ({"prompt": [1], "drafts": [], "temperature": 3}, 400, "requests[0].temperature"),
    ],
)
def test_refusals_are_openai_shaped(server: VllmServer, request_: dict[str, object], status: int, param: str) -> None:
    body = {"model": MODEL, "requests": [request_]}
    response = httpx.post(f"{server.url}/pipesd/verify", json=body, headers=HEADERS, timeout=30)
    assert openai_error(response, status)["param"] == param


def test_another_model_and_no_key(server: VllmServer) -> None:
    body = {"model": "other", "requests": [{"prompt": [1], "drafts": []}]}
    openai_error(httpx.post(f"{server.url}/pipesd/verify", json=body, headers=HEADERS, timeout=30), 404)
    assert httpx.post(f"{server.url}/pipesd/verify", json=body, timeout=30).status_code == 401


def test_long_prompts_with_a_seed_are_computed_in_parts(server: VllmServer) -> None:
    """More than a step takes: vLLM sets the generators of the unfinished ones back, which a CPU's cannot be."""
    batch = [{"prompt": [number] * 900, "drafts": [6], "temperature": 1.0, "seed": number} for number in range(8)]
    response = httpx.post(f"{server.url}/pipesd/verify", json={"requests": batch}, headers=HEADERS, timeout=60)
    assert response.status_code == 200, response.text
    wait_until(lambda: server.engine()["sessions"] == 0, 30)


def test_a_client_that_goes_away_leaves_nothing_behind(server: VllmServer) -> None:
    batch = [{"prompt": [number] * 900, "drafts": [6] * 15} for number in range(64)]  # no prefix is shared
    hurried = httpx.Timeout(30, read=0.02)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/pipesd/verify", json={"requests": batch}, headers=HEADERS, timeout=hurried)
    wait_until(lambda: server.engine()["sessions"] == 0, 30)
