"""The drafting model on the real demo pair."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from repository import BUILD

from pipesd_agent.drafting.drafter import Drafter, DraftToken, NoDraft
from pipesd_agent.drafting.worker import DraftWorker
from pipesd_core.errors import DecodeError, ModelLoadError
from pipesd_core.sampling.params import SamplingParams

if TYPE_CHECKING:
    from pipesd_agent.drafting.llama import LlamaDrafter

pytestmark = pytest.mark.e2e

MODEL = BUILD / "demo-draft-F32.gguf"
GREEDY = SamplingParams(temperature=0.0)
SAMPLED = SamplingParams(temperature=0.8, top_p=0.95, seed=11)
PROMPT = [0, *range(300, 400)]


def unexpected(error: Exception) -> None:
    raise error


@pytest.fixture
def drafter() -> Iterator[LlamaDrafter]:
    from pipesd_agent.drafting.llama import LlamaDrafter

    drafter = LlamaDrafter(MODEL, capacity=3, n_ctx_seq=512)
    yield drafter
    drafter.release()


async def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "what the test waits for did not come"
        await asyncio.sleep(0.002)


def draft(drafter: Drafter, lane: int, n: int) -> list[DraftToken]:
    tokens: list[DraftToken] = []
    while len(tokens) < n:
        (token,) = drafter.draft([lane])
        if isinstance(token, DraftToken):
            tokens.append(token)
        else:
            assert token is NoDraft.UNFINISHED
    return tokens


def ids(tokens: list[DraftToken]) -> list[int]:
    return [token.token for token in tokens]


@pytest.mark.parametrize("params", [GREEDY, SAMPLED])
def test_drafts_go_on_from_the_prompt(drafter: LlamaDrafter, params: SamplingParams) -> None:
    drafter.open(0, PROMPT, params)
    assert drafter.draft([0]) == [NoDraft.UNFINISHED]  # 101 ids are two chunks
    tokens = draft(drafter, 0, 20)
    assert [t.position for t in tokens] == list(range(101, 121))
    assert all(0.0 < t.confidence <= 1.0 and t.margin >= 0.0 and t.entropy > 0.0 for t in tokens)


@pytest.mark.parametrize("params", [GREEDY, SAMPLED])
def test_rolled_back_lane_drafts_the_same_again(drafter: LlamaDrafter, params: SamplingParams) -> None:
    drafter.open(0, PROMPT, params)
    first = draft(drafter, 0, 20)
    drafter.truncate(0, 106)
    assert ids(draft(drafter, 0, 15)) == ids(first[5:])
    drafter.truncate(0, 106)
    drafter.extend(0, [77, 78])
    other = draft(drafter, 0, 10)
    drafter.open(1, [*PROMPT, *ids(first[:5]), 77, 78], params)
    assert ids(draft(drafter, 1, 10)) == ids(other)


def test_lanes_together_draft_what_they_draft_alone(drafter: LlamaDrafter) -> None:
    prompts = [PROMPT[:40], PROMPT[:150:2], [0, 500, 501, 502]]
    alone = []
    for prompt in prompts:
        drafter.open(0, prompt, GREEDY)
        alone.append(ids(draft(drafter, 0, 12)))
        drafter.close(0)
    for lane, prompt in enumerate(prompts):
        drafter.open(lane, prompt, GREEDY)
    together: list[list[int]] = [[], [], []]
    while min(map(len, together)) < 12:
        for lane, token in enumerate(drafter.draft([0, 1, 2])):
            if isinstance(token, DraftToken):
                together[lane].append(token.token)
    assert [tokens[:12] for tokens in together] == alone


def test_feeding_does_not_hold_up_a_drafting_lane(drafter: LlamaDrafter) -> None:
    drafter.open(0, PROMPT[:10], GREEDY)
    draft(drafter, 0, 1)
    drafter.open(1, [0, *range(100, 500)], GREEDY)
    calls = 0
    while drafter.behind(1):
        (token,) = drafter.draft([0], [1])
        assert isinstance(token, DraftToken)
        calls += 1
    assert calls == 7  # 400 ids in chunks of 63
    assert isinstance(drafter.draft([1])[0], DraftToken)


def test_next_turn_of_a_chat_finds_its_cache(drafter: LlamaDrafter) -> None:
    drafter.open(0, PROMPT, GREEDY)
    drafter.open(1, [0, *range(900, 1000)], GREEDY)
    answer = ids(draft(drafter, 0, 10))
    draft(drafter, 1, 1)
    drafter.close(0)
    drafter.close(1)
    drafter.open(2, [*PROMPT, *answer, 5, 6, 7], GREEDY)
    assert isinstance(drafter.draft([2])[0], DraftToken)  # at once: only four ids were left to feed


def test_stop_aborts_a_forward_and_the_lane_goes_on(drafter: LlamaDrafter) -> None:
    drafter.open(0, PROMPT, GREEDY)
    expected = ids(draft(drafter, 0, 30))
    drafter.close(0)
    drafter.open(0, [0, 1], GREEDY)
    draft(drafter, 0, 1)
    drafter.truncate(0, 1)
    drafter.extend(0, PROMPT[1:])
    over = threading.Event()

    def stop_again_and_again() -> None:
        while not over.wait(0.0003):
            drafter.stop()

    stopper = threading.Thread(target=stop_again_and_again)
    stopper.start()
    tokens: list[int] = []
    aborted = 0
    end = time.monotonic() + 20
    try:
        while len(tokens) < 30:
            assert time.monotonic() < end
            (token,) = drafter.draft([0])
            if isinstance(token, DraftToken):
                tokens.append(token.token)
            else:
                aborted += 1
                if aborted > 20:
                    over.set()
    finally:
        over.set()
        stopper.join()
    assert tokens == expected


def test_drafts_to_the_end_of_its_context_and_no_further(drafter: LlamaDrafter) -> None:
    assert drafter.max_context == 512
    drafter.open(0, list(range(100, 602)), GREEDY)
    assert [t.position for t in draft(drafter, 0, 10)] == list(range(502, 512))


def test_fingerprint_is_that_of_the_other_model_of_the_pair(drafter: LlamaDrafter) -> None:
    from pipesd_core.llamacpp.binding import Model

    with Model(MODEL.with_name("demo-target-F32.gguf")) as target:
        assert drafter.fingerprint == target.fingerprint()


def test_any_id_below_its_vocabulary_can_be_in_a_path(drafter: LlamaDrafter) -> None:
    assert drafter.n_vocab == 4096
    drafter.open(0, [0, 4095, 4095], GREEDY)
    assert isinstance(drafter.draft([0])[0], DraftToken)
    drafter.open(1, [0, 4096], GREEDY)  # what the worker sees to
    with pytest.raises(DecodeError):
        drafter.draft([1])


@pytest.mark.parametrize("gpu_layers", [0, 7, -1])
def test_gpu_layers_reach_llama_cpp(
    drafter: LlamaDrafter, gpu_layers: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a build for the CPU they change nothing but a line in the log."""
    import llama_cpp.llama_cpp as lib

    from pipesd_agent import build
    from pipesd_agent.config import AgentConfig
    from pipesd_agent.drafting.settings import AutoSettings

    seen: list[tuple[int, bool]] = []
    load, make_context = lib.llama_model_load_from_file, lib.llama_init_from_model
    loaded: list[int] = []

    def loading(path: bytes, params: Any) -> Any:
        loaded.append(params.n_gpu_layers)
        return load(path, params)

    def making(model: Any, params: Any) -> Any:
        seen.append((loaded[-1], params.op_offload))
        return make_context(model, params)

    monkeypatch.setattr(lib, "llama_model_load_from_file", loading)
    monkeypatch.setattr(lib, "llama_init_from_model", making)
    other = AutoSettings().make(build._resources(AgentConfig(draft_model=MODEL, gpu_layers=gpu_layers)))
    try:
        assert seen == [(gpu_layers, gpu_layers != 0)]
        if not lib.llama_supports_gpu_offload():
            assert ("compiled without GPU support" in caplog.text) is (gpu_layers != 0)
            drafter.open(0, PROMPT, GREEDY)
            other.open(0, PROMPT, GREEDY)
            assert ids(draft(other, 0, 10)) == ids(draft(drafter, 0, 10))
    finally:
        other.release()


def test_a_context_beyond_the_model_s_takes_no_memory_and_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """It took that of 4,000,768 tokens."""
    from pipesd_agent.drafting.llama import LlamaDrafter

    drafter = LlamaDrafter(MODEL, capacity=4, n_ctx_seq=1_000_000)
    try:
        assert (drafter.max_context, drafter._context.n_ctx_seq) == (2048, 2048)
    finally:
        drafter.release()
    assert (
        "context is 1000000, but demo-draft-F32.gguf was trained for at most 2048 tokens: 2048 are used" in caplog.text
    )


def test_a_model_without_memory_for_its_context_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipesd_agent.drafting.llama import LlamaDrafter
    from pipesd_core.llamacpp import memory

    monkeypatch.setattr(memory, "available_memory", lambda: 2**20)
    with pytest.raises(ModelLoadError, match="choose a smaller context, or fewer sequences"):
        LlamaDrafter(MODEL, capacity=4)


def test_missing_file() -> None:
    from pipesd_agent.drafting.llama import LlamaDrafter

    with pytest.raises(ModelLoadError, match="no model file"):
        LlamaDrafter(MODEL.with_name("nothing.gguf"))


async def test_worker_over_the_model_drafts_what_the_model_does(drafter: LlamaDrafter) -> None:
    from pipesd_agent.drafting.llama import LlamaDrafter

    drafter.open(0, PROMPT, GREEDY)
    expected = ids(draft(drafter, 0, 24))
    worker = DraftWorker(LlamaDrafter(MODEL, capacity=2, n_ctx_seq=512))
    reported: list[tuple[int, DraftToken]] = []
    lane = worker.open(PROMPT, GREEDY, frozenset(), lambda n, t: reported.append((n, t)) if t else None, unexpected)
    assert lane
    lane.commit([], 109)
    wrong = expected[4] + 1
    await until(lambda: len(reported) == 8)
    lane.commit([*expected[:4], wrong], 112)  # once: a second one would commit the same tokens again, behind these
    await until(lambda: reported[-1][1].position == 111)
    await worker.aclose()
    assert ids([t for n, t in reported if n == 1]) == expected[:8]
    after = [t for n, t in reported if n == 2]
    drafter.truncate(0, 105)
    drafter.extend(0, [wrong])
    assert [t.position for t in after] == list(range(106, 112))
    assert ids(after) == ids(draft(drafter, 0, 6))
