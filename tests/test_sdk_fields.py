"""Each field of the installed OpenAI SDK's request types is one that somebody has thought of, and the page says what
becomes of it: a new version of the SDK with a new field turns this red."""

from __future__ import annotations

import pytest
from sdk_fields import BETWEEN, PAGE, SDK, embedded, fields, table

from pipesd_core.protocol.messages import Endpoint


@pytest.mark.parametrize("endpoint", SDK)
def test_no_field_is_new(endpoint: Endpoint) -> None:
    assert len(fields(endpoint)) > 15
    assert [name for name in fields(endpoint) if embedded(endpoint, name) is None] == []


def test_the_table_is_the_codes() -> None:
    """To write it: see tests/helpers/sdk_fields.py."""
    (found,) = BETWEEN.findall(PAGE.read_text("utf-8"))
    assert found == table()
