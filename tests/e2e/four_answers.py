"""Four answers in the making: what tests of links and gateways that go in mid-answer ask, and what must come of it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from harness import LONG, Asking, Process, complete

FLOOR = ("--step-floor-ms", "30")

modes = pytest.mark.parametrize("mode", ["collaborative", pytest.param("cloud", marks=pytest.mark.full)])
"""Agents that never draft meet the same, in less time, in the fault suite."""


def parameters(tokens: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of a greedy answer and of a sampled one."""
    return {"max_tokens": tokens, "temperature": 0}, {"max_tokens": tokens, "temperature": 0.8, "seed": 7}


def truth(target: Process, tokens: int) -> list[str]:
    """What the target alone answers, greedy and sampled."""
    return [complete(target.url, LONG, **asked_for)[0] for asked_for in parameters(tokens)]


def asked(url: str, tokens: int) -> list[Asking]:
    """Four answers in the making: streams and not, greedy and sampled."""
    kinds = [(stream, asked_for) for stream in (True, False) for asked_for in parameters(tokens)]
    askings = [Asking(url, LONG, stream=stream, **asked_for) for stream, asked_for in kinds]
    for asking in askings[:2]:
        assert asking.first.wait(20)
    time.sleep(0.5)
    assert all(asking.running for asking in askings)
    return askings


def assert_right(askings: list[Asking], expected: list[str]) -> None:
    """expected: see `truth`."""
    for asking, text in zip(askings, expected * 2, strict=True):
        outcome = asking.wait(60)
        assert outcome.complete, outcome
        assert outcome.text == text
