from __future__ import annotations

import datetime

import pytest

from pipesd_core.errors import InvalidRequest, ModelLoadError
from pipesd_core.llamacpp.openai.chat_messages import Message
from pipesd_core.llamacpp.openai.chat_template import ChatTemplate

USER = Message("user", "hi <b>")


def render(source: str, *messages: Message, **special: str) -> str:
    return ChatTemplate(source, special).render(messages or (USER,))


def test_messages_and_generation_prompt() -> None:
    source = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    source += "{% if add_generation_prompt %}>{% endif %}"
    assert render(source, Message("system", "s"), USER) == "<|system|>s<|user|>hi <b>>"


def test_whitespace_is_trimmed_as_hf_does() -> None:
    assert render("  {% if true %}\nx\n  {% endif %}\ny") == "x\ny"


def test_developer_is_system_to_the_template() -> None:
    assert render("{{ messages[0].role }}", Message("developer", "x")) == "system"


def test_special_tokens_name_and_helpers() -> None:
    assert render("{{ bos_token }}{{ eos_token }}", bos_token="<s>") == "<s>"
    assert render("{{ messages[0].name }}", Message("user", "x", name="eve")) == "eve"
    assert render("{{ messages[0] | tojson }}", Message("user", "ü<")) == '{"role": "user", "content": "ü<"}'
    assert render("{{ strftime_now('%Y') }}") == str(datetime.datetime.now().year)
    assert render("{% for i in [1, 2] %}{{ i }}{% break %}{% endfor %}") == "1"


def test_a_template_that_refuses_is_an_invalid_request() -> None:
    with pytest.raises(InvalidRequest, match="only users") as error:
        render("{{ raise_exception('only users') }}")
    assert error.value.param == "messages"


@pytest.mark.parametrize("source", ["{{ 1 / 0 }}", "{{ messages[0].content + 1 }}", "{{ messages[9].content.x }}"])
def test_a_template_that_fails_is_an_invalid_request(source: str) -> None:
    with pytest.raises(InvalidRequest, match="chat template"):
        render(source)


def test_the_sandbox_keeps_the_template_in() -> None:
    with pytest.raises(InvalidRequest):
        render("{{ messages.append(1) }}")
    with pytest.raises(InvalidRequest):
        render("{{ ''.__class__.__mro__[1].__subclasses__() }}")


def test_a_template_that_does_not_compile_is_a_model_error() -> None:
    with pytest.raises(ModelLoadError, match="does not compile"):
        ChatTemplate("{% if %}")
