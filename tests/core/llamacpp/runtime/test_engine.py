"""The embedded engine over a decoder that writes a given answer; and, marked e2e, over the real one."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest
from fake_decoder import BOS, EOS, FakeDecoder, FakeModel
from repository import BUILD

from pipesd_core.engine.interface import (
    Broken,
    EngineOutput,
    Finished,
    Opening,
    Payload,
    Queued,
    StepDone,
    Working,
)
from pipesd_core.errors import (
    ContextLengthExceeded,
    EngineFailed,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    Unavailable,
)
from pipesd_core.llamacpp.openai.prompt import SLACK
from pipesd_core.llamacpp.openai.request import parse
from pipesd_core.llamacpp.runtime import engine as runtime
from pipesd_core.llamacpp.runtime.engine import EmbeddedEngine
from pipesd_core.llamacpp.runtime.generation import EmbeddedGeneration
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.sampling.params import SamplingParams

HELLO = [{"role": "user", "content": "x"}]


@contextlib.asynccontextmanager
async def serve(answer: bytes, model: FakeModel | None = None) -> AsyncIterator[tuple[EmbeddedEngine, FakeDecoder]]:
    decoder = FakeDecoder(answer, model=model)
    engine = EmbeddedEngine(decoder, name="fake")
    yield engine, decoder
    await engine.aclose()
    assert decoder.closed
    assert all(sequence.released for sequence in decoder.sequences)


class Client:
    """Opens a request and collects what is delivered."""

    def __init__(self, engine: EmbeddedEngine) -> None:
        self.engine = engine
        self.queued: list[Opening] = []
        self.outputs: list[EngineOutput] = []
        self.delivered = asyncio.Event()

    def deliver(self, output: EngineOutput) -> None:
        match output:
            case Queued():
                self.queued.append(output.opening)
            case Working():
                pass
            case _:
                self.outputs.append(output)
                self.delivered.set()

    async def open(self, endpoint: Endpoint = Endpoint.COMPLETIONS, **body: Any) -> EmbeddedGeneration:
        body = ({"prompt": "hello"} if endpoint is Endpoint.COMPLETIONS else {}) | body
        return await self.engine.open(endpoint, msgspec.json.encode(body), self.deliver)

    async def continue_answer(self, opening: Opening, decided: bytes, **body: Any) -> EmbeddedGeneration:
        raw = msgspec.json.encode({"prompt": "another"} | body)
        return await self.engine.continue_answer(Endpoint.COMPLETIONS, raw, opening, tuple(decided), self.deliver)

    async def run(self, generation: EmbeddedGeneration, drafts: Sequence[int] = ()) -> list[EngineOutput]:
        """Steps to the end; each step gets the next ids of `drafts`."""
        done = 0
        while not isinstance(self.outputs[-1] if self.outputs else None, Finished | Broken):
            before = len(self.outputs)
            self.delivered.clear()
            generation.step(drafts[done : done + 8])
            await asyncio.wait_for(self.delivered.wait(), 30)
            step = self.outputs[before]
            done += len(step.tokens) if isinstance(step, StepDone) else 0
        return self.outputs

    def payloads(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(out.data) for out in self.outputs if isinstance(out, Payload)]

    def text(self) -> str:
        return "".join(choice["text"] for payload in self.payloads() for choice in payload["choices"])

    def steps(self) -> list[StepDone]:
        return [out for out in self.outputs if isinstance(out, StepDone)]


async def test_one_payload_per_step_after_its_verdict() -> None:
    async with serve(b"abcd") as (engine, decoder):
        client = Client(engine)
        generation = await client.open(stream=True, stream_options={"include_usage": True})
        assert generation.opening.prompt_ids == tuple(b"hello")
        outputs = await client.run(generation, drafts=b"ab!")
        kinds = [type(out) for out in outputs]
        # abc is one step, d and EOS one each: verdict and payload; the usage comes last.
        assert kinds == [StepDone, Payload, StepDone, Payload, StepDone, Payload, Payload, Finished]
        assert [(step.tokens, step.verified, step.accepted) for step in client.steps()] == [
            ((97, 98, 99), 3, 2), ((100,), 0, 0), ((EOS,), 0, 0),
        ]  # fmt: skip
        assert [out.upto for out in outputs if isinstance(out, Payload)] == [3, 4, 5, 5]
        assert client.text() == "abcd"
        *_, last, usage = client.payloads()
        assert last["choices"][0]["finish_reason"] == "stop"
        assert usage["usage"]["completion_tokens"] == 5  # EOS counts, as in vLLM
        assert usage["usage"]["prompt_tokens"] == 5
        assert decoder.sequences[0].released


async def test_ignore_eos_makes_eos_a_token_like_any_other() -> None:
    async with serve(b"") as (engine, decoder):
        decoder.answer = (97, EOS, 98)
        client = Client(engine)
        generation = await client.open(ignore_eos=True, max_tokens=3)
        assert generation.opening.eos_ids == ()
        await client.run(generation, drafts=(97, EOS))
        assert [step.tokens for step in client.steps()] == [(97, EOS, 98)]
        assert client.text() == "ab"


async def test_a_whole_answer_is_one_payload() -> None:
    async with serve("grüß".encode()) as (engine, _):
        client = Client(engine)
        outputs = await client.run(await client.open(Endpoint.CHAT_COMPLETIONS, messages=HELLO))
        (payload,) = [out for out in outputs if isinstance(out, Payload)]
        assert (payload.upto, payload.usage) == (7, True)
        (body,) = client.payloads()
        assert body["choices"][0]["message"]["content"] == "grüß"
        assert body["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("drafts", [b"", b"a\xc3\xbcb!d", b"abcdefgh"])
async def test_logprobs_of_every_token_come_with_its_text(drafts: bytes, stream: bool) -> None:
    async with serve("aüb!de".encode()) as (engine, _):
        client = Client(engine)
        await client.run(await client.open(stream=stream, logprobs=2, stop="de"), drafts)
        choices = [choice for payload in client.payloads() for choice in payload["choices"]]
        delivered = [choice["logprobs"] or {} for choice in choices]
        joined = {name: [item for part in delivered for item in part.get(name, ())] for name in delivered[-1]}
        assert joined["tokens"] == ["a", "�", "�", "b", "!", "d", "e"]
        assert joined["token_logprobs"] == [-5.5, -5.5, -5.5, -5.5, -9999.0, -5.5, -5.5]
        assert joined["text_offset"] == [0, 1, 1, 2, 3, 4, 5]
        assert joined["top_logprobs"][0] == {"A": -5.5, "B": -5.5, "a": -5.5}
        if stream:  # the text of a token is never without its logprobs, nor they without it
            shown = [len(choice["text"].encode()) for choice in choices]
            assert shown[:-1] == [len(part.get("tokens", ())) for part in delivered][:-1]
            assert len(delivered[-1]["tokens"]) == shown[-1] + len("de")


async def test_no_payload_for_a_step_that_shows_no_text() -> None:
    async with serve("ü".encode()) as (engine, _):
        client = Client(engine)
        outputs = await client.run(await client.open(stream=True))
        assert [type(out) for out in outputs] == [StepDone, StepDone, Payload, StepDone, Payload, Finished]
        assert client.text() == "ü"


@pytest.mark.parametrize("drafts", [b"", b"a", b"ab", b"abXcdefgh", b"abXcdXXXX"])
async def test_a_stop_string_ends_the_answer_at_its_token_whatever_the_steps(drafts: bytes) -> None:
    async with serve(b"abXcdefghi") as (engine, _):
        client = Client(engine)
        await client.run(await client.open(stop="Xc", stream=True, stream_options={"include_usage": True}), drafts)
        assert client.text() == "ab"
        assert [t for step in client.steps() for t in step.tokens] == [*b"abXc"]
        assert client.payloads()[-2]["choices"][0]["finish_reason"] == "stop"
        assert client.payloads()[-1]["usage"]["completion_tokens"] == 4
        assert all(step.accepted <= len(step.tokens) for step in client.steps())


@pytest.mark.parametrize("drafts", [b"", b"abcdefgh"])
async def test_max_tokens_ends_the_answer_with_length(drafts: bytes) -> None:
    async with serve(b"abcdefghi") as (engine, _):
        client = Client(engine)
        await client.run(await client.open(max_tokens=3, stream=True, stop="cd"), drafts)
        assert client.text() == "abc"  # the c was held back for the stop string
        assert client.payloads()[-1]["choices"][0]["finish_reason"] == "length"
        assert sum(len(step.tokens) for step in client.steps()) == 3


async def test_defaults_of_max_tokens() -> None:
    async with serve(b"") as (engine, _):
        client = Client(engine)
        assert (await client.open()).opening.max_tokens == 16
        assert (await client.open(prompt="x" * 60)).opening.max_tokens == 4
        assert (await client.open(prompt="x", max_tokens=-1)).opening.max_tokens == 63
        chat = await client.open(Endpoint.CHAT_COMPLETIONS, messages=HELLO)
        assert chat.opening.max_tokens == 63


async def test_too_long_prompts_name_both_counts() -> None:
    async with serve(b"") as (engine, _):
        client = Client(engine)
        with pytest.raises(ContextLengthExceeded, match=r"64 tokens.* 64 tokens") as error:
            await client.open(prompt="x" * 64)
        assert error.value.param == "prompt"
        with pytest.raises(ContextLengthExceeded, match=r"5 tokens.*60.*65.*64 tokens.*at most 59") as error:
            await client.open(max_tokens=60)
        assert error.value.param == "max_tokens"


async def test_a_prompt_that_cannot_fit_is_not_even_read() -> None:
    """The longest piece of this model has 3 bytes, its context 64 tokens."""
    async with serve(b"") as (engine, _):
        limit = SLACK * 3 * 64
        with pytest.raises(ContextLengthExceeded, match=f"{limit} tokens"):
            await Client(engine).open(prompt="x" * limit)
        for endpoint, body in (
            (Endpoint.COMPLETIONS, {"prompt": "x" * (limit + 1)}),
            (Endpoint.CHAT_COMPLETIONS, {"messages": [{"role": "user", "content": "x" * (limit + 1)}]}),
        ):
            with pytest.raises(ContextLengthExceeded, match=f"{limit + 1} characters.*{limit}.*64 tokens") as error:
                await Client(engine).open(endpoint, **body)
            assert error.value.param in body


async def test_bad_requests() -> None:
    async with serve(b"") as (engine, decoder):
        client = Client(engine)
        with pytest.raises(ModelNotFound, match=r"'gpt-4'.*'fake'"):
            await client.open(model="gpt-4")
        with pytest.raises(InvalidRequest, match=r"999.*258"):
            await client.open(prompt=[1, 999])
        with pytest.raises(InvalidRequest, match=r"logit_bias.*300.*258"):
            await client.open(logit_bias={"300": 1})
        schema = {"type": "json_schema", "json_schema": {"schema": {"const": "forbidden"}}}
        with pytest.raises(InvalidRequest, match="a bad grammar"):
            await client.open(response_format=schema)
        decoder.model.chat_template = None
        plain = EmbeddedEngine(decoder, name="fake")
        with pytest.raises(InvalidRequest, match="no chat template"):
            await Client(plain).open(Endpoint.CHAT_COMPLETIONS, messages=HELLO)
        await plain.aclose()
        assert decoder.sequences == []


async def test_bos_is_put_before_a_prompt_once_where_the_model_wants_it() -> None:
    model = FakeModel()
    model.adds_bos = True
    async with serve(b"", model) as (engine, decoder):
        client = Client(engine)
        await client.open(prompt="x")
        await client.open(prompt=[BOS, 120])
        await client.open(Endpoint.CHAT_COMPLETIONS, messages=HELLO)
        assert decoder.prompts == [(BOS, 120), (BOS, 120), (120,)]


async def test_an_error_of_the_decoder_breaks_the_request() -> None:
    async with serve(b"abc") as (engine, decoder):
        client = Client(engine)
        generation = await client.open(stream=True)
        decoder.failure = EngineFailed("boom")
        assert await client.run(generation) == [Broken(decoder.failure)]
        assert decoder.sequences[0].released
        with pytest.raises(RuntimeError):
            generation.step(())


async def test_a_checked_request_is_told_that_it_waits() -> None:
    async with serve(b"abc") as (engine, decoder):
        client = Client(engine)
        with pytest.raises(InvalidRequest):
            await client.open(nonsense=1)
        assert client.queued == []
        decoder.full.clear()
        waiting = asyncio.create_task(client.open())
        async with asyncio.timeout(10):
            while not decoder.waiting:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        (opening,) = client.queued
        decoder.full.set()
        assert (await waiting).opening == opening


async def test_nothing_is_delivered_after_abort() -> None:
    async with serve(b"abc") as (engine, decoder):
        client = Client(engine)
        generation = await client.open(stream=True)
        generation.step(())
        generation.abort()
        generation.abort()
        await asyncio.sleep(0.01)
        assert client.outputs == []
        assert decoder.sequences[0].released


async def test_abort_while_being_told_a_verdict() -> None:
    async with serve(b"abc") as (engine, _):
        outputs: list[EngineOutput] = []

        def deliver(output: EngineOutput) -> None:
            if not isinstance(output, Queued):
                outputs.append(output)
                generation.abort()

        generation = await engine.open(Endpoint.COMPLETIONS, b'{"prompt": "x", "max_tokens": 1}', deliver)
        generation.step(())
        await asyncio.sleep(0.01)
        assert [type(out) for out in outputs] == [StepDone]


async def test_closing_breaks_what_runs_and_refuses_what_comes() -> None:
    async with serve(b"abc") as (engine, _):
        client = Client(engine)
        await client.open(stream=True)
        await engine.aclose()
        assert [type(out) for out in client.outputs] == [Broken]
        with pytest.raises(Unavailable):
            await client.open()


async def test_the_wait_for_a_place_is_bounded_and_can_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(b"abc") as (engine, decoder):
        decoder.full.clear()
        waiting = asyncio.create_task(Client(engine).open())
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        monkeypatch.setattr(runtime, "QUEUE_WAIT_S", 0.05)
        with pytest.raises(Overloaded) as error:
            await Client(engine).open()
        assert error.value.retry_after_s == decoder.wait_s


async def test_prompts_waiting_for_the_tokenizer_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(b"abc") as (engine, _):
        monkeypatch.setattr(runtime, "MAX_PREPARING", 0)
        with pytest.raises(Overloaded):
            await Client(engine).open()


def begun(max_tokens: int = 20, *stop: str, prompt: bytes = b"hello") -> Opening:
    return Opening(tuple(prompt), SamplingParams(temperature=0.0, seed=3), max_tokens, (EOS,), "a target", stop)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("count", range(9))
async def test_an_answer_that_another_model_began_is_told_from_its_beginning(count: int, stream: bool) -> None:
    """Wherever the seam lies: in the text, in a character, in what may become a stop string."""
    answer = "abé stRstop!".encode()
    async with serve(answer) as (engine, decoder):
        client = Client(engine)
        generation = await client.continue_answer(begun(20, "stop"), answer[:count], stream=stream)
        assert generation.opening.model == "fake"
        assert not client.steps()
        await client.run(generation)
        assert decoder.prompts == [tuple(b"hello")]
        assert b"".join(bytes(step.tokens) for step in client.steps()) == answer[count:-1]
        assert client.text() == "abé stR"
        last = client.payloads()[-1]
        assert last["choices"][0]["finish_reason"] == "stop"
        if not stream:
            assert last["usage"]["completion_tokens"] == len(answer) - 1


@pytest.mark.parametrize(
    ("decided", "max_tokens", "reason"), [(b"ab stop", 20, "stop"), (b"abc", 3, "length"), (b"ab", 20, None)]
)
async def test_an_answer_that_was_complete_needs_no_place(decided: bytes, max_tokens: int, reason: str | None) -> None:
    async with serve(b"never") as (engine, decoder):
        client = Client(engine)
        opening = begun(max_tokens, "stop")
        tokens = tuple(decided) if reason else (*decided, EOS)
        raw = msgspec.json.encode({"prompt": "x", "stream": True})
        generation = await engine.continue_answer(Endpoint.COMPLETIONS, raw, opening, tokens, client.deliver)
        assert generation.over
        assert isinstance(client.outputs[-1], Finished)
        assert client.payloads()[-1]["choices"][0]["finish_reason"] == (reason or "stop")
        assert decoder.prompts == []


async def test_what_cannot_be_gone_on_with() -> None:
    async with serve(b"x" * 60) as (engine, _):
        client = Client(engine)
        with pytest.raises(InvalidRequest, match="logprobs are not known"):
            await client.continue_answer(begun(), b"ab", logprobs=1)
        with pytest.raises(InvalidRequest, match="suffix"):
            await client.continue_answer(begun(), b"ab", suffix="x")
        with pytest.raises(InvalidRequest, match="token id 300; ids of this model are below 258"):
            await engine.continue_answer(Endpoint.COMPLETIONS, b'{"prompt": "x"}', begun(), (300,), client.deliver)
        with pytest.raises(ContextLengthExceeded, match=r"5 tokens, the answer 2 so far and 60 at most.*is 64 tokens"):
            await client.continue_answer(begun(60), b"ab", max_tokens=60)
        with pytest.raises(ContextLengthExceeded):
            await client.continue_answer(begun(1000), b"a" * 59)
        for no_limit in (None, -1):
            shorter = await client.continue_answer(begun(1000), b"a" * 58, max_tokens=no_limit)
            assert shorter.opening.max_tokens == 59
            shorter.abort()


async def test_requests_that_were_taken_back_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """They count until their turn comes, hold no memory, and cost nothing then."""
    async with serve(b"abc") as (engine, _):
        free, parsed = threading.Event(), []

        def slow(endpoint: Endpoint, body: bytes, *rest: Any) -> Any:
            parsed.append(body)
            assert free.wait(60)
            return parse(endpoint, body, *rest)

        monkeypatch.setattr(runtime, "parse", slow)
        monkeypatch.setattr(runtime, "MAX_PREPARING", 1)
        monkeypatch.setattr(runtime, "MAX_TAKEN_BACK", 2)
        for _ in range(3):
            opening = asyncio.create_task(Client(engine).open())
            await asyncio.sleep(0.02)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
        with pytest.raises(Overloaded, match="3 requests are waiting to be read already"):
            await Client(engine).open()
        free.set()
        await asyncio.sleep(0.1)
        assert (await Client(engine).open()).opening.max_tokens == 16
        assert len(parsed) == 2, "one that had begun, and the last"


DEMO_TARGET = BUILD / "demo-target-F32.gguf"


@pytest.mark.e2e
@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_drafts_change_nothing_but_the_steps(temperature: float) -> None:
    from pipesd_core.llamacpp.runtime.decoder import TargetDecoder

    engine = EmbeddedEngine(TargetDecoder(DEMO_TARGET, n_seq=1, n_ctx_seq=256), name="demo")
    try:
        body: dict[str, Any] = {
            "prompt": "def add(a, b):\n",
            "max_tokens": 40,
            "temperature": temperature,
            "seed": 7,
            "stream": True,
        }
        body |= {"stop": ["\n\n\n"], "stream_options": {"include_usage": True}}
        target_only = Client(engine)
        await target_only.run(await target_only.open(**body))
        tokens = [token for step in target_only.steps() for token in step.tokens]
        assert 1 < len(tokens) <= 40
        drafted = Client(engine)
        wrong = [token if i % 5 else 0 for i, token in enumerate(tokens)]
        await drafted.run(await drafted.open(**body), wrong)
        assert [token for step in drafted.steps() for token in step.tokens] == tokens
        assert drafted.text() == target_only.text()
        assert drafted.payloads()[-1]["usage"] == target_only.payloads()[-1]["usage"]
        assert len(drafted.steps()) < len(target_only.steps())
    finally:
        await engine.aclose()


@pytest.mark.e2e
@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_tokens_of_another_model_are_gone_on_with_as_with_a_prompt(temperature: float) -> None:
    """To the token: what follows is what follows the same ids as a prompt, in the noise of their positions."""
    from pipesd_core.llamacpp.runtime.decoder import TargetDecoder

    engine = EmbeddedEngine(TargetDecoder(DEMO_TARGET, n_seq=1, n_ctx_seq=256), name="demo")
    try:
        params = SamplingParams(temperature=temperature, seed=7)
        prompt, decided = tuple(range(40, 60)), (70, 71, 72, 73, 74)
        client = Client(engine)
        opening = Opening(prompt, params, 35, (), "another")
        await client.run(
            await engine.continue_answer(Endpoint.COMPLETIONS, b'{"prompt": "x"}', opening, decided, client.deliver)
        )
        target_only = Client(engine)
        body: dict[str, Any] = {"prompt": [*prompt, *decided], "max_tokens": 30, "temperature": temperature, "seed": 7}
        await target_only.run(await target_only.open(**body, ignore_eos=True))
        assert [s.tokens for s in client.steps()] == [s.tokens for s in target_only.steps()]
        assert client.text().endswith(target_only.text())
    finally:
        await engine.aclose()
