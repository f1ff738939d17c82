"""`usage.pipesd` and `timings`: what they count, that OpenAI's types take them, and that they are as described."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import msgspec
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from pipesd_agent.drafting.status import DraftingOff
from pipesd_agent.session.counts import Counts
from pipesd_agent.session.usage import TokenTimes, drafts, timings, usage_payload
from pipesd_core.llamacpp.openai.responses import Usage, Writer
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.service.openapi import describe

COUNTS = Counts(forwards=6, drafted=9, sent=7, accepted=5)
DRAFTS = {"drafted": 9, "accepted": 5, "rejected": 2, "target_forwards": 6}


def half_a_second_then_two() -> TokenTimes:
    times = TokenTimes(10.0)
    for now in (10.5, 11.0, 12.5):
        times.arrived(now)
    return times


def decoded(payload: bytes) -> dict[str, Any]:
    answer: dict[str, Any] = msgspec.json.decode(payload)
    return answer


@pytest.mark.parametrize("details", [{}, {"completion_tokens_details": None}, Usage(4, 8).to_json()])
def test_the_drafts_are_added_and_all_else_stays(details: dict[str, Any]) -> None:
    answer = {"id": "x", "usage": {"prompt_tokens": 4, "completion_tokens": 8} | details, "choices": []}
    got = decoded(usage_payload(msgspec.json.encode(answer), COUNTS))
    assert got["usage"].pop("pipesd") == DRAFTS
    assert got == answer


def test_timings_are_llama_servers() -> None:
    assert timings(4, 8, COUNTS, half_a_second_then_two()) == {
        "prompt_n": 4,
        "prompt_ms": 500.0,
        "prompt_per_token_ms": 125.0,
        "prompt_per_second": 8.0,
        "predicted_n": 8,
        "predicted_ms": 2000.0,
        "predicted_per_token_ms": 250.0,
        "predicted_per_second": 4.0,
        "draft_n": 7,
        "draft_n_accepted": 5,
    }


def test_without_drafts_the_timings_say_nothing_of_them() -> None:
    figures = timings(4, 8, Counts(drafted=3), half_a_second_then_two())
    assert not any(name.startswith("draft") for name in figures)


def test_an_answer_of_one_token_has_no_infinite_rate() -> None:
    times = TokenTimes(1.0)
    times.arrived(1.0)
    figures = timings(4, 1, Counts(), times)
    assert (figures["prompt_ms"], figures["predicted_ms"]) == (0.001, 0.001)
    msgspec.json.encode(figures)


def test_without_a_token_there_are_no_timings() -> None:
    payload = msgspec.json.encode({"usage": {"prompt_tokens": 4, "completion_tokens": 0}})
    assert "timings" not in decoded(usage_payload(payload, Counts(), TokenTimes(1.0)))


def test_an_answer_that_was_not_drafted_for_says_why() -> None:
    payload = msgspec.json.encode({"usage": {"prompt_tokens": 4, "completion_tokens": 8}})
    said = decoded(usage_payload(payload, COUNTS, off=DraftingOff.VOCABULARY))["usage"]["pipesd"]
    assert said == drafts(COUNTS) | {"drafting": "off", "reason": "vocabulary_mismatch"}


@pytest.mark.parametrize("counts", [COUNTS, Counts()])
def test_answers_are_those_of_openais_types_and_of_the_description(counts: Counts) -> None:
    chat, text = Writer.start(Endpoint.CHAT_COMPLETIONS, "m"), Writer.start(Endpoint.COMPLETIONS, "m")
    usage, times = Usage(4, 8), half_a_second_then_two()
    components = describe("pipesd_agent")["components"]
    for kind, name, payload in (
        (ChatCompletion, "ChatCompletion", chat.whole("hi", "stop", usage)),
        (ChatCompletionChunk, "ChatCompletionChunk", chat.usage_chunk(usage)),
        (Completion, "Completion", text.whole("hi", "stop", usage)),
        (Completion, "CompletionChunk", text.usage_chunk(usage)),
    ):
        data = usage_payload(payload, counts, times)
        schema = {"$ref": f"#/components/schemas/{name}", "components": components}
        jsonschema_rs.validator_for(schema).validate(decoded(data))
        parsed = kind.model_validate_json(data, strict=True)
        assert parsed.usage is not None
        assert (parsed.usage.model_extra or {})["pipesd"] == drafts(counts)
        assert (parsed.model_extra or {})["timings"]["predicted_n"] == 8
        details = parsed.usage.completion_tokens_details
        assert details is not None
        assert (details.accepted_prediction_tokens, details.rejected_prediction_tokens) == (0, 0)


def test_every_figure_is_described() -> None:
    schemas = describe("pipesd_agent")["components"]["schemas"]
    assert set(schemas["Drafts"]["properties"]) == set(drafts(COUNTS, DraftingOff.CAPACITY))
    assert schemas["DraftingOff"]["enum"] == list(DraftingOff)
    assert set(schemas["Timings"]["properties"]) == set(timings(4, 8, COUNTS, half_a_second_then_two()))
