from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipesd_agent.api.eligibility import why_ineligible
from pipesd_agent.link.passthrough import with_noise
from pipesd_core.errors import InvalidRequest
from pipesd_core.llamacpp.openai.request import parse
from pipesd_core.openai_parameters import SERVED
from pipesd_core.protocol.messages import Endpoint

CHAT, COMPLETIONS = Endpoint.CHAT_COMPLETIONS, Endpoint.COMPLETIONS


def why(endpoint: Endpoint, **body: Any) -> str | None:
    return why_ineligible(endpoint, msgspec.json.encode(body))


@pytest.mark.parametrize("endpoint", SERVED)
@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"n": 2}', "n = 2"),
        (b'{"a": {"n": 1}, "n": 2.0}', "n = 2.0"),
        (b'{"n": 1' + b"0" * 300 + b"}", "n = 10"),
        (b'{"use_beam_search": true}', "use_beam_search"),
        (b'{"use_beam_search": "yes"}', "use_beam_search"),
        (b'{"n": "2"}', "n = 2"),
    ],
)
def test_what_no_endpoint_drafts(endpoint: Endpoint, body: bytes, said: str) -> None:
    reason = why_ineligible(endpoint, body)
    assert reason is not None
    assert reason.startswith(said)
    assert reason.endswith("cannot be drafted for")
    assert len(reason) < 80


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"prompt": ["a", "b"]}, "2 prompts"),
        ({"prompt": ["a", "b", "c"], "n": 1}, "3 prompts"),
        ({"prompt": [[1, 2], [3]]}, "2 prompts"),
        ({"prompt": [[1], []]}, "2 prompts"),
        ({"best_of": 2}, "best_of = 2"),
        ({"prompt_embeds": "AAAA"}, "prompt_embeds"),
        ({"prompt": None, "prompt_embeds": ["AAAA"]}, "prompt_embeds"),
    ],
)
def test_what_completions_do_not_draft(body: dict[str, Any], said: str) -> None:
    assert (why(COMPLETIONS, **body) or "").startswith(said)
    assert why(CHAT, **body) is None


def chat_of(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": list(parts)}]}


TEXT = {"type": "text", "text": "What is this?"}


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, "'image_url'"),
        ({"image_url": "http://x/y.png"}, "'image_url'"),
        ({"type": "text", "text": "x", "image_url": "http://x/y.png"}, "'image_url'"),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, "'input_audio'"),
        ({"type": "audio_url", "audio_url": {"url": "http://x/y.wav"}}, "'audio_url'"),
        ({"type": "video_url", "video_url": {"url": "http://x/y.mp4"}}, "'video_url'"),
        ({"type": "image_embeds", "image_embeds": "AAAA"}, "'image_embeds'"),
        ({"type": "prompt_embeds", "data": "AAAA"}, "'prompt_embeds'"),
        ({"type": "file", "file": {"file_id": "f"}}, "'file'"),
        ({"type": "of the future" * 9}, "'of the future"),
    ],
)
def test_what_is_not_text_is_not_drafted(part: dict[str, Any], said: str) -> None:
    """The target may see an image; a drafter has token ids only."""
    for body in (chat_of(part), chat_of(TEXT, part)):
        reason = why(CHAT, **body)
        assert reason is not None
        assert reason.startswith(f"a message with {said}")
        assert reason.endswith("cannot be drafted for")
        assert len(reason) < 80


@pytest.mark.parametrize(
    "body",
    [
        chat_of(TEXT),
        chat_of(TEXT, TEXT),
        chat_of({"text": "x"}),
        chat_of({"type": "refusal", "refusal": "x"}),
        chat_of("x", None, 3),
        {"messages": None},
        {"messages": "image_url"},
        {"messages": [{"content": {"type": "image_url"}}, {}]},
        {"messages": [{"role": "user", "content": '{"type": "image_url"}'}]},
    ],
)
def test_what_is_text_or_wrong_is_drafted_for(body: dict[str, Any]) -> None:
    assert why(CHAT, **body) is None


def test_blanks_before_the_first_prompt() -> None:
    assert why_ineligible(COMPLETIONS, b'{"prompt" : [\n  "a", [1], "b"]}') is None
    assert why_ineligible(COMPLETIONS, b'{"prompt" : [\n  "a" , "b"]}') is not None


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"n": 1}, {"n": None}, {"n": 0}, {"n": True}, {"n": "x"}, {"n": "1"}, {"n": [2]}, {"n": {"n": 2}},
        {"best_of": 1}, {"best_of": "many"},
        {"use_beam_search": False}, {"use_beam_search": None}, {"use_beam_search": "no"},
        {"prompt": "a"}, {"prompt": ["a"]}, {"prompt": [1, 2]}, {"prompt": [[1, 2]]}, {"prompt": []}, {"prompt": 7},
        {"prompt": ["a", 1]}, {"prompt": ["a", [1]]}, {"prompt": [None, "a"]}, {"prompt": {"a": "b"}},
        {"prompt_embeds": None}, {"prompt_embeds": []},
        {"messages": [{"role": "user", "content": "x", "n": 2}]},
    ],
)  # fmt: skip
@pytest.mark.parametrize("endpoint", Endpoint)
def test_what_is_drafted_or_wrong_goes_the_usual_way(endpoint: Endpoint, body: dict[str, Any]) -> None:
    assert why(endpoint, **body) is None


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"background": True}, "background"),
        ({"background": "yes"}, "background"),
        ({"tools": [{"type": "function", "name": "x"}, {"type": "web_search"}]}, "a tool of type 'web_search'"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "a tool of type 'mcp'"),
        ({"tools": [{"type": []}]}, "a tool of type '[]'"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "an item with 'input_image'"),
        ({"input": [{"type": "function_call_output", "output": [{"type": "input_file"}]}]}, "'input_file'"),
    ],
)
def test_responses_that_are_not_drafted(body: dict[str, Any], said: str) -> None:
    assert said in (why(Endpoint.RESPONSES, **body) or "")


@pytest.mark.parametrize(
    "body",
    [
        {"input": "hi", "background": False, "tools": None},
        {"input": [{"role": "user", "content": "hi"}, {"type": "reasoning", "content": [{"type": "reasoning_text"}]}]},
        {"input": [{"type": "function_call_output", "output": [{"type": "input_text"}]}], "tools": [{"name": "x"}]},
    ],
)
def test_responses_of_text_are(body: dict[str, Any]) -> None:
    assert why(Endpoint.RESPONSES, **body) is None


def test_messages_with_images_are_not_drafted() -> None:
    image = {"role": "user", "content": [{"type": "image", "source": {}}]}
    assert "'image'" in (why(Endpoint.MESSAGES, messages=[image]) or "")
    blocks = [{"type": kind} for kind in ("text", "tool_use", "tool_result", "thinking", "redacted_thinking")]
    assert why(Endpoint.MESSAGES, messages=[{"role": "user", "content": blocks}]) is None


NOT_JSON = [b"", b"{", b"[2]", b'"n"', b"\xff", b'{"n":2', b'{"n":2}x', b"[" * 100_000, b'{"n":2,"a":"\\ud800"}']


@pytest.mark.parametrize("body", NOT_JSON)
@pytest.mark.parametrize("endpoint", Endpoint)
def test_what_is_not_json_goes_the_usual_way(endpoint: Endpoint, body: bytes) -> None:
    assert why_ineligible(endpoint, body) is None
    with_noise(body)


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        (b'{"n":2}', b'{"n":2,"vllm_xargs":{"pipesd_noise":1}}'),
        (b'{"n": 2, "vllm_xargs": null}', b'{"n":2,"vllm_xargs":{"pipesd_noise":1}}'),
        (b'{"vllm_xargs": {"a": [1, 2.50]}, "n": 2}', b'{"vllm_xargs":{"a":[1, 2.50],"pipesd_noise":1},"n":2}'),
        (b'{"vllm_xargs":{"pipesd_noise":0}}', b'{"vllm_xargs":{"pipesd_noise":1}}'),
        (b'{"x":9162071741130345789,"y":1e2}', b'{"x":9162071741130345789,"y":1e2,"vllm_xargs":{"pipesd_noise":1}}'),
        (b'{"vllm_xargs": 3}', b'{"vllm_xargs": 3}'),
        (b'{"vllm_xargs": ["a"]}', b'{"vllm_xargs": ["a"]}'),
        (b'{"vllm_xargs": {"\xff": 1}}', b'{"vllm_xargs": {"\xff": 1}}'),
    ],
)  # fmt: skip
def test_the_noise_is_all_that_changes(body: bytes, asked: bytes) -> None:
    assert with_noise(body) == asked


values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats(0, 3) | st.sampled_from(["", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["n", "a"]), inner, max_size=2),
    max_leaves=5,
)
names = st.sampled_from(["n", "best_of", "prompt", "prompt_embeds", "use_beam_search", "vllm_xargs", "max_tokens"])


@given(st.sampled_from(list(SERVED)), st.dictionaries(names, values))
def test_what_the_embedded_engine_takes_is_drafted(endpoint: Endpoint, fields: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]} if endpoint is CHAT else {"prompt": "x"}
    body = msgspec.json.encode(asked | fields)
    if why_ineligible(endpoint, body) is not None:
        with pytest.raises(InvalidRequest):
            parse(endpoint, body)


@given(st.dictionaries(names, values))
def test_the_noise_comes_on_top(fields: dict[str, Any]) -> None:
    told = msgspec.json.decode(with_noise(msgspec.json.encode(fields)))
    given_extra, extra = fields.pop("vllm_xargs", None), told.pop("vllm_xargs")
    assert told == fields
    if given_extra is None or isinstance(given_extra, dict):
        assert extra == (given_extra or {}) | {"pipesd_noise": 1}
    else:
        assert extra == given_extra
