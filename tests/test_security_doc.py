"""SECURITY.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

from pipesd_agent.config import GATEWAY_KEY, KEYS
from pipesd_gateway.config import KEYS as OF_GATEWAY

ROOT = Path(__file__).parents[1]


def test_the_tests_that_it_names_exist() -> None:
    named = set(re.findall(r"tests/\w+/test_\w+\.py", (ROOT / "SECURITY.md").read_text("utf-8")))
    assert len(named) > 15
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_variables_of_keys_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "operation.md").read_text("utf-8")
    for source in (GATEWAY_KEY, KEYS, OF_GATEWAY):
        assert f"| `--{source.file_setting.replace('_', '-')}` | `{source.variable}` |" in text
