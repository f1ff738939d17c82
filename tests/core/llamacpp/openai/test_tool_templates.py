"""What templates teach is found out, in the known formats and in others; models are told of tools all the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from repository import ROOT
from tool_formats import CALLS, template

from pipesd_core.errors import InvalidRequest
from pipesd_core.llamacpp.openai.chat_messages import Message, ToolCall
from pipesd_core.llamacpp.openai.chat_template import ChatTemplate
from pipesd_core.llamacpp.openai.tool_calls import HERMES, LLAMA3, MISTRAL, CallFormat, CallParser, CallRules
from pipesd_core.llamacpp.openai.tool_templates import ToolTemplate
from pipesd_core.llamacpp.openai.tools import Tool

CHATML = (ROOT / "configs" / "chat_templates" / "chatml_hermes.jinja").read_text("utf-8")
CHAT = template(told=False)
XML_CALLS = (
    "{% for c in m.tool_calls %}<function={{ c.function.name }}>{{ c.function.arguments }}</function>{% endfor %}"
)
STRING_CALLS = CALLS["Hermes"].replace("c.function.arguments | tojson", "c.function.arguments | tojson | tojson")
WEIGH = Tool("weigh", "Weighs a thing.", {"type": "object", "properties": {"thing": {"type": "string"}}})
USER = Message("user", "How heavy is tea?")
CALL = Message("assistant", "", tool_calls=(ToolCall("abcdefghi", "weigh", {"thing": "tee ü"}),))
RESULT = Message("tool", "7 g", tool_call_id="abcdefghi")


def tool_template(source: str) -> ToolTemplate:
    return ToolTemplate(ChatTemplate(source))


@pytest.mark.parametrize(
    ("source", "form"),
    [
        (template(CALLS["Hermes"]), HERMES),
        (template(CALLS["Llama 3"]), LLAMA3),
        (template(CALLS["Mistral"]), MISTRAL),
        (CHATML, HERMES),
        (CHAT, None),  # no tools at all
        (template(CALLS["Hermes"], told=False), None),  # calls, but the model is not told what there is to call
        (template(), None),
        (template(XML_CALLS), None),
        (template(STRING_CALLS), None),
        ("{{ raise_exception('never') }}", None),
        ("", None),
    ],
)
def test_what_a_template_teaches_is_found_out(source: str, form: CallFormat | None) -> None:
    assert tool_template(source).form is form


def test_tools_calls_and_results_are_the_template_s_to_write() -> None:
    text = tool_template(template(CALLS["Hermes"])).render([USER, CALL, RESULT], [WEIGH])
    assert text == (
        f"<tools>{json.dumps([WEIGH.to_json()])}</tools><user>How heavy is tea?</s><assistant><tool_call>\n"
        '{"name": "weigh", "arguments": {"thing": "tee ü"}}\n</tool_call></s><tool>7 g</s><assistant>'
    )


def test_thoughts_names_and_ids_are_given_to_the_template() -> None:
    source = "{% for m in messages %}{{ m.reasoning_content }}|{{ m.name }}|{{ m.tool_call_id }};{% endfor %}"
    messages = [Message("assistant", "x", reasoning_content="hm"), Message("tool", "y", "weigh", (), "abc")]
    assert tool_template(source).render(messages, []) == "hm||;|weigh|abc;"


def test_a_model_whose_template_knows_no_tools_is_told_by_the_system_message() -> None:
    plain = tool_template(CHAT)
    told = plain.render([USER], [WEIGH])
    assert told.startswith("<system>You can call these functions")
    assert json.dumps(WEIGH.to_json()["function"]) in told
    assert told.endswith("</s><user>How heavy is tea?</s><assistant>")
    both = plain.render([Message("developer", "Be brief."), USER], [WEIGH])
    assert both.startswith("<system>Be brief.\n\nYou can call")
    assert both.count("<system>") == 1
    assert plain.render([USER], []) == "<user>How heavy is tea?</s><assistant>"


def test_or_by_the_first_message_where_there_is_no_system() -> None:
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    for source in (refuses + CHAT, CHAT.replace("{{ m.content", "{{ '' if m.role == 'system' else m.content")):
        text = tool_template(source).render([USER], [WEIGH])
        assert text.startswith("<user>You can call these functions")
        assert text.endswith("\n\nHow heavy is tea?</s><assistant>")


def test_calls_that_a_template_would_leave_out_are_text() -> None:
    plain = tool_template(CHAT)
    one = '{"name": "weigh", "arguments": {"thing": "tee ü"}}'
    assert plain.render([USER, CALL, RESULT], []) == (
        f"<user>How heavy is tea?</s><assistant>{one}</s><tool>7 g</s><assistant>"
    )
    two = Message("assistant", "Let me see.", tool_calls=CALL.tool_calls * 2)
    assert f"<assistant>Let me see.\n[{one}, {one}]</s>" in plain.render([USER, two], [])


def test_what_a_template_refuses_is_an_invalid_request() -> None:
    wrong_id = Message("assistant", "", tool_calls=(ToolCall("call_1", "weigh", {}),))
    with pytest.raises(InvalidRequest, match="does not take these messages: id"):
        tool_template(template(CALLS["Mistral"])).render([USER, wrong_id], [WEIGH])
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"properties": deep}
    with pytest.raises(InvalidRequest, match="does not take these messages"):
        tool_template(template()).render([USER], [Tool("f", None, deep)])


def test_the_template_that_comes_along_writes_turns_that_its_parser_reads() -> None:
    chatml = tool_template(CHATML)
    calls = (ToolCall("a", "weigh", {"thing": "tea"}), ToolCall("b", "weigh", {"thing": '"}'}))
    messages = [
        Message("system", "Be brief."), USER, Message("assistant", "Two.", tool_calls=calls),
        Message("tool", "7 g", tool_call_id="a"), Message("tool", "9 g", tool_call_id="b"),
        Message("assistant", "16 g"),
    ]  # fmt: skip
    text = chatml.render(messages, [WEIGH])
    assert text.startswith("<|im_start|>system\nBe brief.\n\nYou can call")
    written = text.partition("<|im_start|>assistant\n")[2].partition("<|im_end|>")[0]
    parser = CallParser(CallRules(HERMES, ("weigh",)))
    parser.push(written)
    parser.finish()
    delta = parser.take()
    assert delta.content == "Two.\n"
    assert [json.loads(call.arguments) for call in delta.calls] == [call.arguments for call in calls]
    results = "\n<tool_response>\n7 g\n</tool_response>\n<tool_response>\n9 g\n</tool_response>"
    assert text.endswith(
        f"<|im_start|>user{results}<|im_end|>\n<|im_start|>assistant\n16 g<|im_end|>\n<|im_start|>assistant\n"
    )
    assert chatml.render([USER], []) == "<|im_start|>user\nHow heavy is tea?<|im_end|>\n<|im_start|>assistant\n"
