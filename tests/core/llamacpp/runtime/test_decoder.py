"""The decode loop over the real demo target (F32): exact, fair, and never stuck."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from repository import BUILD

from pipesd_core.engine.interface import StepDone
from pipesd_core.errors import (
    ApiError,
    DecodeError,
    EngineFailed,
    InvalidRequest,
    ModelLoadError,
    Overloaded,
    Unavailable,
)
from pipesd_core.llamacpp.runtime import decoder as decoder_module
from pipesd_core.llamacpp.runtime.decoder import TargetDecoder
from pipesd_core.sampling.params import SamplingParams

pytestmark = pytest.mark.e2e

TARGET = BUILD / "demo-target-F32.gguf"
GREEDY = SamplingParams(temperature=0.0)
NO_EOS: frozenset[int] = frozenset()
WAIT_S = 30
PROMPTS = [
    "def add(a, b):\n    return",
    "import os\nimport sys\n\n\ndef main(argv):\n    parser = argparse.ArgumentParser()\n" * 4,
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n" * 3,
    "x",
]

Drafter = Callable[[list[int]], Sequence[int]]


def no_drafts(_ids: list[int]) -> Sequence[int]:
    return ()


@pytest.fixture
async def decoder() -> AsyncIterator[TargetDecoder]:
    decoder = TargetDecoder(TARGET)
    yield decoder
    await decoder.aclose()


class Client:
    """Steps a sequence to its limit: each step is asked for in the callback of the one before, as a session does."""

    def __init__(self, prompt: Sequence[int], drafter: Drafter = no_drafts) -> None:
        self.ids = list(prompt)
        self.drafter = drafter
        self.steps: list[StepDone] = []
        self.over: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()

    async def run(
        self, decoder: TargetDecoder, params: SamplingParams, limit: int, eos: frozenset[int] = NO_EOS
    ) -> None:
        self.limit, self.eos = limit, eos
        self.sequence = await decoder.reserve(self.ids.copy(), params, limit, eos, self.on_step)
        self.sequence.step(self.drafter(self.ids))

    def on_step(self, result: StepDone | ApiError) -> None:
        if isinstance(result, ApiError):
            self.over.set_exception(result)
            return
        self.steps.append(result)
        self.ids += result.tokens
        assert self.sequence.committed == len(self.ids)
        if len(self.ids) >= self.limit or result.tokens[-1] in self.eos:
            self.sequence.release()
            self.over.set_result(self.ids)
        else:
            self.sequence.step(self.drafter(self.ids))


async def generate(
    decoder: TargetDecoder, prompt: Sequence[int], params: SamplingParams, n: int, eos: frozenset[int] = NO_EOS
) -> list[int]:
    client = Client(prompt)
    await client.run(decoder, params, len(prompt) + n, eos)
    return await asyncio.wait_for(client.over, WAIT_S)


def prompts(decoder: TargetDecoder) -> list[list[int]]:
    return [decoder.model.tokenize(text, special=False) for text in PROMPTS]


def noisy(truth: list[int], rng: random.Random, n_vocab: int) -> Drafter:
    """Up to 8 drafts, often none, each right with 85 %."""

    def draft(ids: list[int]) -> list[int]:
        ahead = truth[len(ids) : len(ids) + rng.choice([0, 0, 1, 2, 3, 5, 8])]
        return [token if rng.random() < 0.85 else rng.randrange(n_vocab) for token in ahead]

    return draft


@pytest.mark.parametrize(
    "params", [GREEDY, SamplingParams(seed=7), SamplingParams(temperature=0.8, top_p=0.9, top_k=40, seed=-3)]
)
async def test_four_sequences_with_noisy_drafts_write_what_each_writes_alone(
    decoder: TargetDecoder, params: SamplingParams
) -> None:
    n = 120
    target_only = [await generate(decoder, prompt, params, n) for prompt in prompts(decoder)]
    together = TargetDecoder(TARGET)
    clients = [
        Client(prompt, noisy(truth, random.Random(number), decoder.model.n_vocab))
        for number, (prompt, truth) in enumerate(zip(prompts(decoder), target_only, strict=True))
    ]
    for number, client in enumerate(clients):
        await client.run(together, params, len(client.ids) + n)
        await asyncio.sleep(0.01 * number)  # out of step
    texts = await asyncio.wait_for(asyncio.gather(*(client.over for client in clients)), WAIT_S)
    await together.aclose()
    assert texts == target_only
    steps = [step for client in clients for step in client.steps]
    assert sum(step.accepted for step in steps) > 100
    assert any(step.accepted < step.verified for step in steps)
    assert together.forwards < len(steps)


async def test_sessions_that_answer_at_once_share_every_forward(decoder: TargetDecoder) -> None:
    clients = [Client([5 + number]) for number in range(4)]
    await asyncio.gather(*(client.run(decoder, GREEDY, 51) for client in clients))
    await asyncio.wait_for(asyncio.gather(*(client.over for client in clients)), WAIT_S)
    assert 50 <= decoder.forwards <= 60


async def test_a_step_reports_drafts_and_times(decoder: TargetDecoder) -> None:
    prompt = prompts(decoder)[0]
    truth = await generate(decoder, prompt, GREEDY, 12)
    n = len(prompt)

    def drafter(ids: list[int]) -> list[int]:
        return [*truth[n : n + 4], truth[n + 4] ^ 1] if len(ids) == n else []

    client = Client(prompt, drafter)
    await client.run(decoder, GREEDY, n + 12)
    assert await asyncio.wait_for(client.over, WAIT_S) == truth
    first = client.steps[0]
    assert (first.tokens, first.verified, first.accepted) == (tuple(truth[n : n + 5]), 5, 4)
    assert first.forward_us > 0
    assert first.queue_us >= 0


async def test_the_most_drafts_and_the_limit(decoder: TargetDecoder) -> None:
    prompt = prompts(decoder)[1]
    truth = await generate(decoder, prompt, GREEDY, 100)
    client = Client(prompt, lambda ids: (truth + [0] * 99)[len(ids) : len(ids) + decoder.max_drafts])
    await client.run(decoder, GREEDY, len(truth))
    assert await asyncio.wait_for(client.over, WAIT_S) == truth
    assert [len(step.tokens) for step in client.steps] == [decoder.max_drafts + 1, 100 - decoder.max_drafts - 1]
    assert client.steps[1].verified == 100 - decoder.max_drafts - 2  # the last place needs no draft


async def test_a_sequence_can_fill_its_context(decoder: TargetDecoder) -> None:
    prompt = [5 + i % 1000 for i in range(decoder.n_ctx_seq - 3)]
    assert len(await generate(decoder, prompt, GREEDY, 3)) == decoder.n_ctx_seq


async def test_a_step_ends_after_an_eos_even_if_it_was_drafted(decoder: TargetDecoder) -> None:
    prompt = prompts(decoder)[0]
    truth = await generate(decoder, prompt, GREEDY, 12)
    n = len(prompt)
    eos = truth[n + 2]
    stop = truth.index(eos, n) + 1
    client = Client(prompt, lambda ids: truth[len(ids) : len(ids) + 8])
    await client.run(decoder, GREEDY, n + 12, frozenset({eos}))
    assert await asyncio.wait_for(client.over, WAIT_S) == truth[:stop]
    assert client.steps[-1].accepted == stop - n


async def test_a_reused_prefix_gives_the_same_text(decoder: TargetDecoder) -> None:
    prompt = prompts(decoder)[2]
    first = await generate(decoder, prompt, GREEDY, 40)
    follow_up = [*first[:-10], *decoder.model.tokenize("\nprint(x)", special=False)]
    reused = await generate(decoder, follow_up, GREEDY, 40)
    fresh = TargetDecoder(TARGET, n_seq=1)
    assert await generate(fresh, follow_up, GREEDY, 40) == reused
    await fresh.aclose()
    again = await generate(decoder, follow_up, GREEDY, 40)
    assert again == reused


async def test_more_prompts_than_slots_are_served_in_order_and_the_rest_is_refused() -> None:
    decoder = TargetDecoder(TARGET, n_seq=1, max_queue=2)
    first = Client([5, 6])
    await first.run(decoder, GREEDY, 40)
    order: list[int] = []

    async def later(number: int) -> None:
        await generate(decoder, [5, 6], GREEDY, 3)
        order.append(number)

    queued = [asyncio.create_task(later(number)) for number in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="2 requests wait"):
        await generate(decoder, [5, 6], GREEDY, 3)
    await asyncio.wait_for(asyncio.gather(*queued), WAIT_S)
    assert order == [0, 1]
    await decoder.aclose()


async def test_a_reservation_cancelled_in_the_queue_takes_no_slot() -> None:
    decoder = TargetDecoder(TARGET, n_seq=1)
    holder = await decoder.reserve([5], GREEDY, 9, NO_EOS, lambda _: None)
    waiting = asyncio.create_task(decoder.reserve([5], GREEDY, 9, NO_EOS, lambda _: None))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    holder.release()
    assert len(await generate(decoder, [5, 6], GREEDY, 3)) == 5
    await decoder.aclose()


async def test_released_in_mid_step_delivers_nothing_and_harms_nobody(decoder: TargetDecoder) -> None:
    truth = await generate(decoder, [5, 6, 7], GREEDY, 30)
    delivered: list[object] = []
    other = Client([5, 6, 7])
    await other.run(decoder, GREEDY, 33)
    for _ in range(20):
        gone = await decoder.reserve(list(range(5, 200)), GREEDY, 300, NO_EOS, delivered.append)
        gone.step([1, 2, 3])
        await asyncio.sleep(random.Random(1).random() * 0.01)
        gone.release()
        gone.release()
    assert await asyncio.wait_for(other.over, WAIT_S) == truth
    assert await generate(decoder, [5, 6, 7], GREEDY, 30) == truth
    assert all(isinstance(result, StepDone) for result in delivered)
    with pytest.raises(RuntimeError, match="over"):
        gone.step([])


async def test_wrong_steps_are_refused(decoder: TargetDecoder) -> None:
    sequence = await decoder.reserve([5], GREEDY, 9, NO_EOS, lambda _: None)
    n_vocab = decoder.model.n_vocab
    for bad in (n_vocab, -1):
        with pytest.raises(ValueError, match=f"draft {bad} is outside the vocabulary of {n_vocab}"):
            sequence.step([5, bad])
    with pytest.raises(ValueError, match=f"{decoder.max_drafts + 1} drafts; .* at most {decoder.max_drafts}"):
        sequence.step([5] * (decoder.max_drafts + 1))
    sequence.step([])
    with pytest.raises(RuntimeError, match="under way"):
        sequence.step([])


@pytest.mark.parametrize(("prompt", "limit"), [([], 5), ([5, 6], 2), ([5], 99_999), ([-1], 5), ([99_999], 5)])
async def test_wrong_prompts_are_refused(decoder: TargetDecoder, prompt: list[int], limit: int) -> None:
    with pytest.raises(ValueError, match="prompt"):
        await decoder.reserve(prompt, GREEDY, limit, NO_EOS, lambda _: None)


async def test_no_step_past_the_limit(decoder: TargetDecoder) -> None:
    ended: asyncio.Future[StepDone | ApiError] = asyncio.get_running_loop().create_future()
    sequence = await decoder.reserve([5], GREEDY, 2, NO_EOS, ended.set_result)
    sequence.step([])
    await asyncio.wait_for(ended, WAIT_S)
    with pytest.raises(RuntimeError, match="the answer ends at 2"):
        sequence.step([])


async def test_a_failing_decode_ends_its_sequences_and_the_loop_lives_on(
    decoder: TargetDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = await generate(decoder, [5, 6, 7], GREEDY, 8)
    decode = decoder._context.decode
    failures = iter([True])

    def fail_once(*args: object) -> bool:
        if next(failures, False):
            raise DecodeError("llama_decode failed with -3")
        return decode(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(decoder._context, "decode", fail_once)
    clients = [Client([5, 6, 7]) for _ in range(4)]
    with pytest.raises(EngineFailed, match="failed with -3"):
        await generate(decoder, [5, 6, 7], GREEDY, 8)
    for client in clients:
        await client.run(decoder, GREEDY, 11)
    assert await asyncio.wait_for(asyncio.gather(*(c.over for c in clients)), WAIT_S) == [truth] * 4


async def test_a_bug_in_the_thread_ends_every_sequence(decoder: TargetDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert decoder.fault is None
    monkeypatch.setattr(decoder._scheduler, "next_batch", lambda: 1 / 0)
    with pytest.raises(EngineFailed, match="died"):
        await generate(decoder, [5, 6, 7], GREEDY, 8)
    with pytest.raises(EngineFailed, match="died"):
        await generate(decoder, [5, 6, 7], GREEDY, 8)
    assert decoder.fault == "ZeroDivisionError: division by zero"


async def test_a_thread_that_ends_without_a_word_is_a_fault_unless_it_was_closed(decoder: TargetDecoder) -> None:
    decoder._run = lambda: None  # type: ignore[method-assign]
    decoder._thread = threading.Thread(target=decoder._run)
    decoder._start()
    decoder._thread.join()
    assert decoder.fault == "its thread ended"
    await decoder.aclose()
    assert decoder.fault is None


async def test_closing_ends_those_who_run_and_those_who_wait() -> None:
    decoder = TargetDecoder(TARGET, n_seq=1, step_floor_s=20)
    running = Client([5, 6])
    await running.run(decoder, GREEDY, 100)
    waiting = asyncio.create_task(decoder.reserve([5], GREEDY, 9, NO_EOS, lambda _: None))
    await asyncio.sleep(0.1)
    await asyncio.wait_for(decoder.aclose(), 15)
    await decoder.aclose()
    for waiter in (running.over, waiting):
        with pytest.raises(Unavailable):
            await asyncio.wait_for(waiter, 60)
    with pytest.raises(Unavailable):
        await decoder.reserve([5], GREEDY, 9, NO_EOS, lambda _: None)


async def test_closing_before_the_first_use() -> None:
    await TargetDecoder(TARGET).aclose()


async def test_the_step_floor_holds() -> None:
    decoder = TargetDecoder(TARGET, step_floor_s=0.05)
    client = Client([5, 6])
    await client.run(decoder, GREEDY, 5)
    await asyncio.wait_for(client.over, WAIT_S)
    await decoder.aclose()
    assert all(step.forward_us >= 50_000 for step in client.steps)


async def test_a_long_prefill_lets_others_step(decoder: TargetDecoder) -> None:
    stepping = Client([5, 6])
    await stepping.run(decoder, GREEDY, 200)
    ended: asyncio.Future[StepDone | ApiError] = asyncio.get_running_loop().create_future()
    long = await decoder.reserve([5 + i % 900 for i in range(1900)], GREEDY, 1901, NO_EOS, ended.set_result)
    before = len(stepping.steps)
    long.step([])
    await asyncio.wait_for(ended, WAIT_S)
    assert len(stepping.steps) - before >= 1900 // 62 - 2
    await asyncio.wait_for(stepping.over, WAIT_S)


async def test_who_waits_for_a_long_prefill_is_told_of_every_forward_pass(
    decoder: TargetDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So are those that wait behind another one's; and nobody who has not asked for a step."""
    monkeypatch.setattr(decoder_module, "WORKING_EVERY_S", 0.0)
    told: list[str] = []
    ended = [asyncio.get_running_loop().create_future() for _ in range(3)]
    sequences = [
        await decoder.reserve(
            [number + i % 900 for i in range(1000)],
            GREEDY,
            1001,
            NO_EOS,
            ended[number].set_result,
            on_working=partial(told.append, name),
        )
        for number, name in enumerate(("first", "second", "parked"))
    ]
    for sequence in sequences[:2]:
        sequence.step([])
    await asyncio.wait_for(asyncio.gather(*ended[:2]), WAIT_S)
    passes = 1000 // 62
    assert told.count("first") >= passes - 2  # what ended before the loop had a turn is told at once
    assert told.count("second") >= 2 * (passes - 2)
    assert told[-1] == "second"
    assert "parked" not in told


def test_a_context_beyond_the_model_s_is_said(caplog: pytest.LogCaptureFixture) -> None:
    decoder = TargetDecoder(TARGET, n_seq=1, n_ctx_seq=1_000_000)
    assert decoder.n_ctx_seq == 2048
    assert "context is 1000000, but demo-target-F32.gguf was trained for at most 2048 tokens" in caplog.text
    decoder.model.close()


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="there is no model file"):
        TargetDecoder(tmp_path / "none.gguf")


def test_the_thread_goes_when_its_event_loop_was_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_module, "_IDLE_CHECK_S", 0.1)
    decoder = TargetDecoder(TARGET)

    async def use_and_forget() -> None:
        await generate(decoder, [5, 6], GREEDY, 2)

    asyncio.run(use_and_forget())
    decoder._thread.join(5)
    assert not decoder._thread.is_alive()


class Dead:
    """A constraint that allows nothing."""

    def allowed(self) -> NDArray[np.int64]:
        raise InvalidRequest("dead end")

    def accept(self, token: int) -> None:
        raise AssertionError(token)


async def test_a_dead_end_of_a_constraint_ends_its_sequence_alone(decoder: TargetDecoder) -> None:
    prompt = prompts(decoder)[0]
    target_only = await generate(decoder, prompt, GREEDY, 20)
    failed: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    stuck = await decoder.reserve(prompt, GREEDY, 50, NO_EOS, failed.set_result, constraint=Dead())
    other = Client(prompt)
    await other.run(decoder, GREEDY, len(prompt) + 20)
    stuck.step(())
    assert isinstance(await asyncio.wait_for(failed, WAIT_S), InvalidRequest)
    assert await asyncio.wait_for(other.over, WAIT_S) == target_only
    assert await generate(decoder, prompt, GREEDY, 20) == target_only
