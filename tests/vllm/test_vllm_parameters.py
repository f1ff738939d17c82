"""What vLLM serves is known by name: an agent with `--unknown-parameters ignore` must not leave any of it out."""

from __future__ import annotations

import json

import pytest
from sdk_fields import VLLM_FIELDS, VLLM_TYPES, vllm_fields

from pipesd_core.openai_parameters import is_known
from pipesd_core.protocol.messages import Endpoint

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT_COMPLETIONS, Endpoint.COMPLETIONS])
def test_every_parameter_of_vllm_is_known(endpoint: Endpoint) -> None:
    fields = vllm_fields(endpoint)
    assert {"model", "min_tokens", "vllm_xargs"} <= set(fields)
    assert [name for name in fields if not is_known(name)] == []


@pytest.mark.parametrize("endpoint", VLLM_TYPES)
def test_the_fields_in_the_page_are_those_of_vllm(endpoint: Endpoint) -> None:
    """To write them: see tests/helpers/sdk_fields.py."""
    assert json.loads(VLLM_FIELDS.read_text("utf-8"))[endpoint.name] == vllm_fields(endpoint)
