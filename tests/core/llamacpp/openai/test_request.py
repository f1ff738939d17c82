from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from constraints import VOCABULARY
from fake_decoder import FakeModel
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pipesd_core.engine.interface import ModelInfo
from pipesd_core.errors import InvalidRequest
from pipesd_core.llamacpp.constraint import Grammar
from pipesd_core.llamacpp.openai.chat_messages import Message
from pipesd_core.llamacpp.openai.logits_processing import Constraint
from pipesd_core.llamacpp.openai.prompt import Prompter
from pipesd_core.llamacpp.openai.request import MAX_STOP_CHARS, UNTIL_CONTEXT_ENDS, Request, parse
from pipesd_core.openai_parameters import SERVED
from pipesd_core.protocol.messages import Endpoint

HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "f"}}


def chat(**body: Any) -> Request:
    return parse(Endpoint.CHAT_COMPLETIONS, msgspec.json.encode({"messages": HELLO} | body))


def completion(**body: Any) -> Request:
    return parse(Endpoint.COMPLETIONS, msgspec.json.encode({"prompt": "hello"} | body))


def test_defaults() -> None:
    request = chat()
    assert request.messages == (Message("user", "hello"),)
    assert (request.params.temperature, request.params.top_p, request.params.top_k) == (1.0, 1.0, 0)
    assert (request.max_tokens, request.stop, request.stream, request.include_usage) == (None, (), False, False)
    assert request.model is None
    assert 0 <= request.params.seed < 2**63
    assert chat().params.seed != request.params.seed


def test_everything_given() -> None:
    request = completion(
        model="m", max_tokens=7, temperature=0, top_p=0.5, top_k=3, seed=-5, stop=["a", "b"], user="u",
        stream=True, stream_options={"include_usage": True, "include_obfuscation": False}, ignore_eos=True,
    )  # fmt: skip
    assert request.ignore_eos
    assert (request.model, request.max_tokens, request.stop) == ("m", 7, ("a", "b"))
    assert (request.params.temperature, request.params.top_p, request.params.top_k) == (0.0, 0.5, 3)
    assert request.params.seed == -5
    assert request.stream
    assert request.include_usage


def test_null_means_not_given() -> None:
    assert chat(max_tokens=None, stop=None, stream=None, tools=None, seed=None, stream_options=None).stop == ()


def test_what_the_clients_send_by_default_is_accepted() -> None:
    # LangChain's OpenAI class, its ChatOpenAI, Open WebUI; and a message as the SDK gave it back.
    completion(
        prompt=["hi"], temperature=0.7, max_tokens=256, top_p=1, frequency_penalty=0, presence_penalty=0, n=1,
        logit_bias={}, best_of=1, logprobs=None,
    )  # fmt: skip
    chat(stream=False, n=1, frequency_penalty=0.0, response_format={"type": "text"}, tools=[], logprobs=False)
    chat(stream=True, stream_options={"include_usage": True}, metadata={"chat_id": "x"}, parallel_tool_calls=True)
    back: dict[str, Any] = {"role": "assistant", "content": "x", "refusal": None, "tool_calls": None, "annotations": []}
    assert chat(messages=[*HELLO, back]).messages[1] == Message("assistant", "x")


def test_what_agents_send_along_changes_nothing() -> None:
    noise = {"pipesd_noise": 1}
    assert chat(seed=5, vllm_xargs=noise) == chat(seed=5)
    assert completion(seed=5, vllm_xargs=noise) == completion(seed=5)
    with pytest.raises(InvalidRequest) as error:
        chat(vllm_xargs=noise, n=2)
    assert error.value.param == "n"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 2}, "n"),
        ({"n": True}, "n"),
        ({"n": 0}, "n"),
        ({"logprobs": 1}, "logprobs"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [TOOL], "response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": "json_object"}, "response_format"),
        ({"response_format": {"type": "json_object"}, "ignore_eos": True}, "ignore_eos"),
        ({"frequency_penalty": 2.1}, "frequency_penalty"),
        ({"presence_penalty": "1"}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"min_p": 1.5}, "min_p"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"temprature": 1}, "temprature"),
        ({"vllm_xargs": {"pipesd_noise": 0}}, "vllm_xargs"),
        ({"vllm_xargs": {"pipesd_noise": True}}, "vllm_xargs"),
        ({"vllm_xargs": {"pipesd_noise": 1, "other": 1}}, "vllm_xargs"),
        ({"vllm_xargs": 1}, "vllm_xargs"),
        ({"echo": True}, "echo"),
        ({"prompt": "x"}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2**70}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": -2}, "max_completion_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 10**400}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"seed": 2**63}, "seed"),
        ({"seed": "1"}, "seed"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": "x" * (MAX_STOP_CHARS + 1)}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"stream": True, "stream_options": {"other": 1}}, "stream_options.other"),
        ({"user": 1}, "user"),
        ({"model": 1}, "model"),
        ({"metadata": 1}, "metadata"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "user", "content": "x", "name": 1}]}, "messages[0].name"),
    ],
)
def test_a_bad_chat_request_names_the_parameter(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        chat(**body)
    assert error.value.param == param
    assert param.rpartition(".")[2].partition("[")[0] in error.value.message


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ("", "prompt"),
        (None, "prompt"),
        ([], "prompt"),
        (["a", "b"], "prompt"),
        ([[1], [2]], "prompt"),
        ([1, -2], "prompt[1]"),
        ([1, True], "prompt[1]"),
        (3, "prompt"),
    ],
)
def test_a_bad_prompt_is_named(prompt: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        completion(prompt=prompt)
    assert error.value.param == param


def test_prompts() -> None:
    assert completion(prompt="x").prompt == "x"
    assert completion(prompt=["x"]).prompt == "x"
    assert completion(prompt=[1, 2]).prompt == (1, 2)
    assert completion(prompt=[[1, 2]]).prompt == (1, 2)


def test_max_completion_tokens_belongs_to_chat_only() -> None:
    assert chat(max_completion_tokens=5).max_tokens == 5
    assert chat(max_completion_tokens=5, max_tokens=5).max_tokens == 5
    with pytest.raises(InvalidRequest, match="max_completion_tokens"):
        completion(max_completion_tokens=5)


@pytest.mark.parametrize(
    ("prompt", "param", "said"),
    [
        (["a", [1]], "prompt", "mixes texts and lists of token ids; send prompts of one kind"),
        ([[1], "a"], "prompt", "mixes"),
        ([["a"]], "prompt[0][0]", 'must be a token id, but is "a"'),
        ([[1, -2]], "prompt[0][1]", "must be a token id, but is -2"),
        ([""], "prompt[0]", "must not be empty"),
        ([None], "prompt[0]", "but is null"),
        ([1.5], "prompt[0]", "but is 1.5"),
        ({}, "prompt", "a text, a list of token ids, or a list of one kind of these, but is {}"),
    ],
)
def test_what_is_wrong_with_a_prompt_is_said_to_a_client_of_the_api(prompt: Any, param: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        completion(prompt=prompt)
    assert error.value.param == param
    assert error.value.message.startswith(param)
    assert said in error.value.message
    assert "session" not in error.value.message


@pytest.mark.parametrize(
    ("message", "place", "said"),
    [
        ({"content": []}, "content", "but is []"),
        ({"content": None}, "content", "but is null"),
        ({}, "content", "but is missing"),
        ({"content": None, "tool_calls": [{}]}, "tool_calls", "belongs to messages of the role assistant"),
        ({"content": [None]}, "content[0]", "must be a text part, but is null"),
        ({"content": ["x"]}, "content[0]", 'must be a text part, but is "x"'),
        ({"content": [{"type": "text"}]}, "content[0].text", "but is missing"),
        ({"content": [{"type": "text", "text": "x", "bold": True}]}, "content[0].bold", "is not served here"),
        ({"content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "content[0]", 'is an image ("image_url")'),
        ({"content": [{"type": "input_audio", "input_audio": {}}]}, "content[0]", 'is audio ("input_audio")'),
        ({"content": [{"type": "file", "file": {}}]}, "content[0]", 'is a file ("file")'),
        ({"content": [{"type": "hologram"}]}, "content[0]", 'is of type "hologram"'),
        ({"content": [{"type": []}]}, "content[0]", "is of type []"),
        ({"role": [], "content": "x"}, "role", "but is []"),
    ],
)
def test_what_is_wrong_with_a_message_is_named(message: dict[str, Any], place: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        chat(messages=[HELLO[0], {"role": "user"} | message])
    assert error.value.param == f"messages[1].{place}"
    assert error.value.message.startswith(error.value.param)
    assert said in error.value.message


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"modalities": ["text", "audio"]}, "modalities", "images and audio are not written"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "audio", "how to speak the answer"),
        ({"mirostat": 2}, "mirostat", "leave it out or give 0, not 2"),
        ({"temprature": 1}, "temprature", "did you mean temperature?"),
        ({"prompt": "x"}, "prompt", "/v1/completions"),
        ({"max_tokens": -2}, "max_tokens", "or -1 (until the context ends), but is -2"),
    ],
)
def test_a_refusal_says_what_to_do(body: dict[str, Any], param: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        chat(**body)
    assert error.value.param == param
    assert said in error.value.message


def test_whole_numbers_with_a_point_are_whole_numbers() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "string", "maxLength": 4.0}}}
    request = chat(n=1.0, max_tokens=4.0, seed=7.0, top_k=5.0, logprobs=True, top_logprobs=2.0, response_format=schema)
    assert (request.max_tokens, request.params.seed, request.params.top_k) == (4, 7, 5)
    assert request.logits_processing.logprobs == 2
    assert completion(prompt=[1.0, 2], logprobs=3.0).prompt == (1, 2)


def test_hints_within_fields_change_nothing() -> None:
    cached = [{"type": "text", "text": "hello", "prompt_cache_breakpoint": {}, "cache_control": {"type": "ephemeral"}}]
    assert chat(seed=1, messages=[{"role": "user", "content": cached}]) == chat(seed=1)
    for options in ({}, {"include_obfuscation": True}, {"include_usage": False}, {"continuous_usage_stats": False}):
        assert chat(seed=1, stream_options=options) == chat(seed=1)
    assert completion(seed=1, logit_bias=[]) == completion(seed=1)


def test_an_answer_until_the_context_ends() -> None:
    assert chat(max_tokens=-1).max_tokens == completion(max_tokens=-1).max_tokens == UNTIL_CONTEXT_ENDS
    assert chat(max_completion_tokens=-1).max_tokens_name == "max_completion_tokens"


def test_unknown_parameters_are_ignored_where_that_is_wanted() -> None:
    body = msgspec.json.encode({"prompt": "hello", "seed": 1, "a b": 1, "x": None, "y": [2]})
    request = parse(Endpoint.COMPLETIONS, body, "ignore")
    assert request.ignored == "a%20b, y"
    assert replace(request, ignored="") == completion(seed=1)
    refused: list[dict[str, Any]] = [{"mirostat": 2}, {"tools": [{}]}, {"messages": HELLO}, {"user": 1}]
    for known in refused:
        with pytest.raises(InvalidRequest) as error:
            parse(Endpoint.COMPLETIONS, msgspec.json.encode({"prompt": "hello"} | known), "ignore")
        assert error.value.param == next(iter(known))


def test_tools_that_may_be_called_are_part_of_the_request() -> None:
    request = chat(tools=[TOOL], parallel_tool_calls=False)
    assert request.tools is not None
    assert [tool.name for tool in request.tools.all] == ["f"]
    assert not request.tools.parallel
    free = chat(tools=[TOOL], tool_choice="none", response_format={"type": "json_object"})
    assert free.tools is None
    with pytest.raises(InvalidRequest, match="/v1/chat/completions"):
        completion(tools=[TOOL])


def test_text_parts_become_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert chat(messages=[{"role": "user", "content": parts}]).messages[0].content == "a\nb"


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"x"', b"\xff", b"[" * 100_000, b'{"messages": "\\ud800"}'])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse(Endpoint.CHAT_COMPLETIONS, body)


words = st.sampled_from(["", "role", "content", "type", "text", "user", "include_usage", "ü\0"])
json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(
    ["messages", "prompt", "max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "stream", "stream_options",
     "n", "logprobs", "user", "logit_bias", "min_p", "metadata", "model", "tools"]
)  # fmt: skip


@given(st.sampled_from(list(SERVED)), st.dictionaries(names, json))
def test_any_body_gives_a_request_or_an_invalid_request(endpoint: Endpoint, body: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidRequest):
        assert parse(endpoint, msgspec.json.encode(body)).endpoint is endpoint


class ByteModel(FakeModel):
    """Tokens are bytes, with real constraints."""

    def constraint(self, grammar: Grammar) -> Constraint:
        return VOCABULARY.constraint(grammar)


def test_a_constraint_goes_on_where_another_model_left_off() -> None:
    prompter = Prompter(ByteModel(), ModelInfo("fake", 258, bytes(16), 100, 8))
    request = completion(response_format={"type": "json_object"})
    constraint = prompter.constraint(request, b'{"a":[1')
    assert constraint is not None
    assert {ord("]"), ord(",")} <= set(constraint.allowed().tolist())
    assert ord("}") not in constraint.allowed()
    with pytest.raises(InvalidRequest, match="does not allow token 125") as error:
        prompter.constraint(request, b'{"a":[1}')
    assert error.value.param == "response_format"
    assert prompter.constraint(completion()) is None
