from __future__ import annotations

import datetime
import ipaddress
import json
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from constraints import EOS, PIECES, VOCABULARY, drawn, takes

from pipesd_core.llamacpp.openai.json_formats import FORMATS
from pipesd_core.llamacpp.openai.json_schema import grammar_of

CHECKS: dict[str, Callable[[str], Any]] = {
    "date": datetime.date.fromisoformat,
    "date-time": datetime.datetime.fromisoformat,
    "time": datetime.time.fromisoformat,
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "uuid": uuid.UUID,
}


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("date", ["2024-02-29", "2000-02-29", "0400-02-29", "1999-12-31", "0001-01-01"], ["2023-02-29", "1900-02-29"]),
        ("date", ["2024-04-30"], ["2024-04-31", "2024-13-01", "2024-00-01", "0000-01-01", "0000-02-29", "24-1-1"]),
        ("date-time", ["2024-02-29T23:59:59Z", "2024-01-01T00:00:00.123456+05:30"], ["2024-01-01"]),
        ("date-time", [], ["2023-02-29T00:00:00Z", "2024-01-01 00:00:00Z", "2024-01-01T00:00:00"]),
        ("time", ["23:59:59Z", "00:00:00.5-23:59"], ["24:00:00Z", "23:59:60Z", "12:00:00", "12:00Z"]),
        ("duration", ["P1DT2H", "PT5M", "P3W"], ["P", "1D", ""]),
        ("email", ["a.b@c.de", "a+b@localhost"], ["a", "@b", "a@b@c"]),
        ("hostname", ["a", "a-b.example"], ["-a", "a..b", ""]),
        ("ipv4", ["127.0.0.1"], ["256.0.0.1", "1.2.3", "01.2.3.4"]),
        ("ipv6", ["::1", "2001:db8::ff00:42:8329"], [":::", "1", "12345::"]),
        ("uri", ["https://example.com/a?b=c#d", "mailto:a@b.c"], ["a b", "//x", ""]),
        ("uuid", ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567e89b12d3a456426614174000", "x"]),
    ],
)  # fmt: skip
def test_what_a_format_takes(name: str, good: list[str], bad: list[str]) -> None:
    grammar = grammar_of({"type": "string", "format": name}, "x")
    assert [text for text in good if not takes(grammar, f'"{text}"')] == []
    assert [text for text in bad if takes(grammar, f'"{text}"')] == []


@pytest.mark.parametrize("name", FORMATS)
def test_whatever_is_drawn_is_of_the_format(name: str) -> None:
    complete = 0
    for seed in range(40):
        constraint = VOCABULARY.constraint(grammar_of({"type": "string", "format": name}, "x"))
        text = drawn(constraint, PIECES, [EOS], np.random.default_rng(seed), 200)
        if text is not None:
            complete += 1
            CHECKS.get(name, str)(json.loads(text))
    assert complete > 10
