"""The models of the demo: the real pair where it has been built, else the toy pair; and the questions for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from examples.demo.programs import ROOT

BUILD: Final = ROOT / ".build"
CUT_S: Final = 3.0
LEAST_TOKENS: Final = 24


@dataclass(frozen=True)
class Question:
    """What is asked. chat: by messages, else as a text to go on with.

    cut_at: output tokens after which the link between agent and gateway is cut for `CUT_S`; None: it is not.
    """

    title: str
    prompt: str
    options: Mapping[str, Any]
    chat: bool = True
    cut_at: int | None = None

    @property
    def max_tokens(self) -> int:
        return int(self.options["max_tokens"])

    def within(self, seconds: float, pass_ms: float) -> Question:
        """The question with fewer tokens to answer, where a pass for each would take longer; no fewer than twice those
        before the cut."""
        most = max(int(1000 * seconds / pass_ms), 2 * (self.cut_at or 0), LEAST_TOKENS)
        return replace(self, options={**self.options, "max_tokens": min(self.max_tokens, most)})


@dataclass(frozen=True)
class Pair:
    """Target and what drafts for it.

    emulated_step_ms: what an emulated step takes at least. accepted: output tokens for each pass of the target, by the
    most drafts in it; None: the step is always emulated.
    """

    name: str
    target: Path
    draft: Path
    questions: tuple[Question, ...]
    emulated_step_ms: float
    accepted: Mapping[int, float] | None


DRAFT_ACCEPTED: Final = {1: 1.27, 2: 1.34, 4: 1.37}
"""Of the draft whose layers the repository ships: `bench/draft_quality.py`, chats, T = 0."""

# Chosen before anything was measured with the draft.
REAL_QUESTIONS: Final = (
    Question(
        "code, T = 0",
        "Write a Python function that returns the largest of three numbers, with an example.",
        {"temperature": 0.0, "max_tokens": 80},
    ),
    Question(
        "advice, T = 0.8",
        "Give me three tips for a good night's sleep.",
        {"temperature": 0.8, "seed": 7, "max_tokens": 64},
    ),
    Question(
        "letter, T = 0, link cut",
        "Write a short email that asks my landlord to repair the heating.",
        {"temperature": 0.0, "max_tokens": 72},
        cut_at=16,
    ),
)

LARGEST: Final = '''def max_element(l: list):
    """ Return maximum element in the list.
    >>> max_element([1, 2, 3])
    3
    """
    result ='''
"""A HumanEval prompt with the answer begun, lest a toy ends the answer before it has begun."""
PALINDROME: Final = "Write a Python function `is_palindrome`. Check whether a text is a palindrome."

TOY_QUESTIONS: Final = (
    Question("chat, T = 0.8", PALINDROME, {"temperature": 0.8, "seed": 7, "max_tokens": 80}),
    Question("completion, T = 0", LARGEST, {"temperature": 0.0, "max_tokens": 80}, chat=False),
    Question("chat, T = 0, link cut", PALINDROME, {"temperature": 0.0, "max_tokens": 60}, cut_at=20),
)


def toy_pair() -> Pair:
    """The models of this repository, made by `make models`."""
    target, draft = BUILD / "demo-target-F32.gguf", BUILD / "demo-draft-F16.gguf"
    return Pair("the toy pair (its text makes little sense)", target, draft, TOY_QUESTIONS, 40.0, None)


def real_pair() -> Pair | None:
    """SmolLM2-135M-Instruct and its draft; None: they have not been built."""
    target, draft = BUILD / "smollm2-F16.gguf", BUILD / "smollm2-draft.gguf"
    if not (target.exists() and draft.exists()):
        return None
    return Pair("SmolLM2-135M-Instruct", target, draft, REAL_QUESTIONS, 80.0, DRAFT_ACCEPTED)
