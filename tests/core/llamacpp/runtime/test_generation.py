"""Answers with calls: from the tokens of a decoder that writes a given text, in steps of any size, to OpenAI's JSON."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import msgspec
import pytest
from fake_decoder import EOS, FakeDecoder, FakeModel
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from test_engine import Client
from tool_formats import CALLS, template, written

from pipesd_core.engine.interface import Payload, StepDone
from pipesd_core.errors import InvalidRequest
from pipesd_core.llamacpp.openai.tool_calls import HERMES, LLAMA3, MISTRAL, CallFormat, CallParser, CallRules, call_id
from pipesd_core.llamacpp.runtime.engine import EmbeddedEngine
from pipesd_core.protocol.messages import Endpoint

HELLO = [{"role": "user", "content": "x"}]
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("look_up", "f")
]
CALLED: list[tuple[str, dict[str, Any]]] = [("look_up", {"thing": "tee ü", "of": [1, {"a": None}]}), ("f", {})]
FORMS = [HERMES, LLAMA3, MISTRAL]
MARKER = 300
"""A control token, in whose place the text has nothing unless it is asked for."""


class Model(FakeModel):
    """Its template teaches a format; what opens a call is one control token where `marker` is given."""

    n_vocab = 301

    def __init__(self, source: str | None, marker: str = "") -> None:
        self.chat_template = source
        self.marker = marker

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        return [MARKER] if self.marker and text == self.marker else super().tokenize(text, special=special)

    def piece(self, token: int, *, special: bool) -> bytes:
        if token == MARKER:
            return self.marker.encode() if special else b""
        return super().piece(token, special=special)


class Decoder(FakeDecoder):
    n_ctx_seq = 8192


@contextlib.asynccontextmanager
async def serve(answer: str, source: str | None, marker: str = "") -> AsyncIterator[tuple[EmbeddedEngine, Decoder]]:
    decoder = Decoder(answer.encode(), model=Model(source, marker))
    engine = EmbeddedEngine(decoder, name="fake")
    yield engine, decoder
    await engine.aclose()


async def ask(engine: EmbeddedEngine, drafts: tuple[int, ...] = (), **body: Any) -> Client:
    client = Client(engine)
    body = {"messages": HELLO, "tools": TOOLS, "seed": 7} | body
    await client.run(await client.open(Endpoint.CHAT_COMPLETIONS, **body), drafts)
    return client


Message = tuple[str | None, list[tuple[str, str, str]], str]
"""Content, calls (id, name, arguments), finish reason."""


def whole(client: Client) -> Message:
    (body,) = client.payloads()
    answer = ChatCompletion.model_validate_json(msgspec.json.encode(body), strict=True)
    (choice,) = answer.choices
    calls = [call for call in choice.message.tool_calls or () if call.type == "function"]
    named = [(call.id, call.function.name, call.function.arguments) for call in calls]
    return choice.message.content, named, choice.finish_reason


def streamed(client: Client) -> Message:
    content: str | None = None
    calls: list[list[str]] = []
    reason = ""
    for number, body in enumerate(client.payloads()):
        chunk = ChatCompletionChunk.model_validate_json(msgspec.json.encode(body), strict=True)
        (choice,) = chunk.choices
        assert choice.delta.role == ("assistant" if number == 0 else None)
        assert not reason
        if choice.delta.content is not None:
            content = (content or "") + choice.delta.content
        for call in choice.delta.tool_calls or ():
            assert call.function is not None
            if call.id is not None:
                assert call.type == "function"
                assert call.index == len(calls)
                calls.append([call.id, call.function.name or "", ""])
            calls[call.index][2] += call.function.arguments or ""
        reason = choice.finish_reason or ""
    return content, [(name, called, arguments) for name, called, arguments in calls], reason


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@pytest.mark.parametrize("content", ["", "Let me see. "])
async def test_streamed_in_any_steps_and_whole_it_is_the_same_answer(form: CallFormat, content: str) -> None:
    text = content + written(form, CALLED)
    async with serve(text, template(CALLS[form.name])) as (engine, _):
        own = whole(await ask(engine))
        assert own[0] == (content or None)
        assert [(name, json.loads(arguments)) for _, name, arguments in own[1]] == CALLED
        assert own[2] == "tool_calls"
        encoded = (*text.encode(), EOS)
        for seed in range(12):
            rng = Random(seed)
            drafts = tuple(0 if rng.random() < seed / 20 else token for token in encoded)
            client = await ask(engine, drafts, stream=True)
            assert streamed(client) == own
            upto = [output.upto for output in client.outputs if isinstance(output, Payload)]
            assert upto == sorted(upto)
            assert upto[-1] == len(encoded)


async def test_arguments_come_as_they_are_written() -> None:
    """Each byte is a step here: a client sees them before the call is complete."""
    async with serve(written(HERMES, CALLED), template(CALLS["Hermes"])) as (engine, _):
        client = await ask(engine, stream=True)
    pieces = [
        call["function"]["arguments"]
        for body in client.payloads()
        for call in body["choices"][0]["delta"].get("tool_calls", ())
        if call["index"] == 0
    ]
    assert len(pieces) > 20
    assert json.loads("".join(pieces)) == CALLED[0][1]


@pytest.mark.parametrize("drafted", [False, True])
async def test_a_payload_covers_no_token_whose_text_is_held_back(drafted: bool) -> None:
    text = "a < b, a <tool\n" + written(HERMES, CALLED) + " <b"
    async with serve(text, template(CALLS["Hermes"])) as (engine, _):
        client = await ask(engine, tuple(text.encode()) if drafted else (), stream=True)
        shown = ""
        for output in client.outputs:
            if isinstance(output, Payload):
                (choice,) = msgspec.json.decode(output.data)["choices"]
                shown += choice["delta"].get("content") or ""
                parser = CallParser(CallRules(HERMES, ("look_up", "f")))
                parser.push(text.encode()[: output.upto].decode(errors="ignore"))
                parser.finish()
                assert shown.startswith(parser.take().content)
        assert shown == "a < b, a <tool\n <b"


async def test_another_model_goes_on_within_a_call() -> None:
    text = "Hm. " + written(HERMES, CALLED)
    async with serve(text, template(CALLS["Hermes"])) as (engine, _):
        own = whole(await ask(engine))
        for stream, length in itertools.product((False, True), (2, 8, 30, 60, len(text.encode()) - 2)):
            body: dict[str, Any] = {"messages": HELLO, "tools": TOOLS, "seed": 7}
            first = Client(engine)
            opening = (await first.open(Endpoint.CHAT_COMPLETIONS, **body)).opening
            client = Client(engine)
            generation = await engine.continue_answer(
                Endpoint.CHAT_COMPLETIONS,
                msgspec.json.encode(body | {"stream": stream}),
                opening,
                tuple(text.encode()[:length]),
                client.deliver,
            )
            await client.run(generation)
            assert (streamed if stream else whole)(client) == own


async def test_ids_go_by_prompt_and_seed() -> None:
    async with serve(written(HERMES, CALLED), template(CALLS["Hermes"])) as (engine, decoder):
        first = whole(await ask(engine))[1]
        assert [call[0] for call in first] == [call_id(decoder.prompts[0], 7, index) for index in (0, 1)]
        assert whole(await ask(engine))[1] == first
        others: list[dict[str, Any]] = [{"seed": 8}, {"messages": [*HELLO, *HELLO]}]
        ids = {call[0] for other in others for call in whole(await ask(engine, **other))[1]}
        assert len(ids | {call[0] for call in first}) == 6


@pytest.mark.parametrize("stream", [True, False])
async def test_without_parallel_calls_the_answer_ends_with_its_first(stream: bool) -> None:
    text = written(HERMES, CALLED)
    async with serve(text, template(CALLS["Hermes"])) as (engine, _):
        for drafts in ((), tuple(text.encode())):
            client = await ask(engine, drafts, stream=stream, parallel_tool_calls=False)
            _, calls, reason = (streamed if stream else whole)(client)
            assert [name for _, name, _ in calls] == ["look_up"]
            assert reason == "tool_calls"
            tokens = [token for step in client.steps() for token in step.tokens]
            end = written(HERMES, CALLED[:1]).removesuffix(" </tool_call>")
            assert bytes(tokens).decode() == end, "it ends at the token that ends the call, whatever the steps"
            assert isinstance(client.outputs[-2 if not stream else -3], StepDone | Payload)


@pytest.mark.parametrize("stream", [True, False])
async def test_what_is_cut_off_says_so(stream: bool) -> None:
    text = written(HERMES, CALLED[:1])
    async with serve(text, template(CALLS["Hermes"])) as (engine, _):
        read = streamed if stream else whole
        content, calls, reason = read(await ask(engine, stream=stream, max_tokens=50))
        assert (content, reason) == (None, "length")
        assert CALLED[0][0] == calls[0][1]
        assert text[:50].endswith(calls[0][2])
        content, calls, reason = read(await ask(engine, stream=stream, max_tokens=20))
        assert (content, calls, reason) == (text[:20], [], "length")
        content, calls, reason = read(await ask(engine, stream=stream, stop="tee"))
        assert (content, reason) == (None, "stop"), "a call that is not whole is none to be made"
        assert calls[0][2] == '{"thing": "'


async def test_without_tools_such_text_is_content() -> None:
    text = written(HERMES, CALLED)
    async with serve(text, template(CALLS["Hermes"])) as (engine, decoder):
        without: list[dict[str, Any]] = [{"tools": None}, {"tools": []}, {"tool_choice": "none"}]
        for body in without:
            assert whole(await ask(engine, **body)) == (text, [], "stop")
            assert b"<tools>" not in bytes(decoder.prompts[-1]), "nothing is told that may not be called"
        await ask(engine)
        assert b"<tools>" in bytes(decoder.prompts[-1])


async def test_a_marker_that_is_a_control_token_is_seen() -> None:
    async with serve("", template(CALLS["Mistral"]), MISTRAL.opening) as (engine, decoder):
        calls = written(MISTRAL, CALLED).removeprefix(MISTRAL.opening)
        decoder.answer = (*b"So", MARKER, *calls.encode(), EOS)
        content, called, reason = whole(await ask(engine))
        assert (content, [name for _, name, _ in called], reason) == ("So", ["look_up", "f"], "tool_calls")
        assert whole(await ask(engine, tools=None))[0] == "So" + calls
        decoder.answer = (*b"So", MARKER, *b" what", EOS)
        assert whole(await ask(engine)) == ("So[TOOL_CALLS] what", [], "stop")


async def test_logprobs_are_those_of_all_tokens() -> None:
    text = "Hm " + written(HERMES, CALLED)
    async with serve(text, template(CALLS["Hermes"])) as (engine, _):
        for stream in (True, False):
            client = await ask(engine, stream=stream, logprobs=True)
            parts = [body["choices"][0]["logprobs"] or {"content": []} for body in client.payloads()]
            tokens = [entry["bytes"] for part in parts for entry in part["content"]]
            assert bytes(byte for part in tokens for byte in part).removesuffix(b"<s>") == text.encode()


@pytest.mark.parametrize("source", [template(told=False), template(CALLS["Hermes"])])
async def test_forced_calls_are_the_json_alone_whatever_the_template_teaches(source: str) -> None:
    objects = [json.dumps({"name": name, "arguments": arguments}) for name, arguments in CALLED]
    async with serve(f"[{', '.join(objects)}]", source) as (engine, decoder):
        own = whole(await ask(engine, tool_choice="required"))
        assert (own[0], own[2]) == (None, "tool_calls")
        assert [(name, json.loads(arguments)) for _, name, arguments in own[1]] == CALLED
        assert streamed(await ask(engine, tool_choice="required", stream=True)) == own
        decoder.answer = (*objects[1].encode(), EOS)
        named = await ask(engine, tool_choice={"type": "function", "function": {"name": "f"}})
        assert [name for _, name, _ in whole(named)[1]] == ["f"]
        grammar = decoder.sequences[-1].logits_processing.grammar
        assert grammar is not None
        assert "look_up" not in grammar.lark
        with pytest.raises(InvalidRequest, match="ignore_eos is not possible with tools"):
            await ask(engine, tool_choice="required", ignore_eos=True)


@pytest.mark.parametrize("source", [template(told=False), template(), None])
async def test_auto_needs_a_template_that_teaches_a_known_format(source: str | None) -> None:
    async with serve("", source) as (engine, _):
        for choice in (None, "auto"):
            with pytest.raises(InvalidRequest, match="--chat-template FILE") as error:
                await ask(engine, tool_choice=choice)
            assert error.value.param == "tools"
            assert "Hermes, Llama 3, Mistral" in error.value.message


async def test_another_template_takes_the_place_of_the_model_s() -> None:
    decoder = Decoder(written(HERMES, CALLED).encode(), model=Model(template(told=False)))
    engine = EmbeddedEngine(decoder, name="fake", chat_template=template(CALLS["Hermes"]))
    assert whole(await ask(engine))[2] == "tool_calls"
    await engine.aclose()


async def test_a_file_may_have_a_template_of_its_own_for_tools() -> None:
    model = Model("{{ messages[0].content }}")
    model.tool_template = template(CALLS["Hermes"])
    decoder = Decoder(written(HERMES, CALLED).encode(), model=model)
    engine = EmbeddedEngine(decoder, name="fake")
    assert whole(await ask(engine))[2] == "tool_calls"
    assert b"<tools>" in bytes(decoder.prompts[-1])
    await ask(engine, tool_choice="none")
    assert bytes(decoder.prompts[-1]) == b"x"
    await engine.aclose()
