from __future__ import annotations

import pytest

from pipesd_core.errors import InvalidRequest
from pipesd_core.openai_parameters import SERVED, drop_unknown
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.translation.parameters import MESSAGES, RESPONSES, TABLE, TRANSLATED, own_names, passed_on


def test_what_a_chat_serves_goes_on() -> None:
    rest = {"seed": 1, "min_p": 0.1, "nobody_knows": 2}
    assert passed_on(RESPONSES, rest) == rest == passed_on(MESSAGES, rest)


def test_what_changes_nothing_does_not() -> None:
    assert passed_on(RESPONSES, {"store": False, "max_tool_calls": 3}) == {}
    assert passed_on(MESSAGES, {"thinking": {"type": "disabled"}, "speed": "standard"}) == {}


@pytest.mark.parametrize("endpoint", [RESPONSES, MESSAGES])
def test_a_chat_s_names_are_led_to_the_own_ones(endpoint: Endpoint) -> None:
    with pytest.raises(InvalidRequest, match="response_format is a parameter of /v1/chat/completions; give"):
        passed_on(endpoint, {"response_format": {}})
    with pytest.raises(InvalidRequest, match="n is a parameter of /v1/chat/completions; leave it out"):
        passed_on(endpoint, {"n": 1})


@pytest.mark.parametrize("endpoint", [RESPONSES, MESSAGES])
def test_no_parameter_of_a_chat_reaches_it_under_the_wrong_name(endpoint: Endpoint) -> None:
    """What shapes a chat's messages or answer is translated, or refused: only how it is drawn goes on."""
    drawing = {
        *("seed", "stop", "ignore_eos", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "logit_bias"),
        *("frequency_penalty", "repetition_penalty"),
    }
    for name in SERVED[Endpoint.CHAT_COMPLETIONS] - drawing - set(TRANSLATED[endpoint]):
        with pytest.raises(InvalidRequest):
            passed_on(endpoint, {name: 1})


def test_each_name_is_either_served_or_not() -> None:
    for endpoint, served in TRANSLATED.items():
        assert not {each.name for each in TABLE if each.endpoint is endpoint} & set(served)
    assert {"input", "store"} <= own_names(RESPONSES)
    assert {"max_tokens", "thinking"} <= own_names(MESSAGES)


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT_COMPLETIONS, Endpoint.COMPLETIONS])
def test_a_chat_keeps_nothing_of_the_other_routes_where_unknown_names_are_left_out(endpoint: Endpoint) -> None:
    body = b'{"prompt":"x","thinking":{"type":"enabled"},"store":true,"input":"hi"}'
    assert drop_unknown(body, own_names(endpoint))[1] == ("thinking", "input")
    assert drop_unknown(body, own_names(MESSAGES))[1] == ("input",)
