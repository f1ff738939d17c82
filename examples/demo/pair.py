"""The models of the demo: the real pair where it has been built, else the toy pair; and the questions for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from examples.demo.programs import ROOT

BUILD: Final = ROOT / ".build"
CUT_S: Final = 3.0


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


@dataclass(frozen=True)
class Pair:
    """Target and what drafts for it; draft: None for prompt lookup. emulated_step_ms: what the emulated step takes.
    accepted: output tokens for each pass of the target by the number of drafts in it, as measured; None: unknown.
    """

    name: str
    target: Path
    draft: Path | None
    questions: tuple[Question, ...]
    emulated_step_ms: float
    accepted: Mapping[int, float] | None

    @property
    def drafter(self) -> str:
        return "prompt lookup" if self.draft is None else self.draft.name


LOOKUP_ACCEPTED: Final = {1: 1.16, 2: 1.22, 4: 1.26}
"""Prompt lookup for SmolLM2-135M-Instruct, T = 0: the chat prompts of bench/proving/traces/real_prompts.jsonl."""

REAL_QUESTIONS: Final = (
    Question(
        "a text to correct, T = 0",
        'Correct the spelling and repeat the text: "The old lighthouse stand on a rock, and the keeper live there with '
        "his cat. Every evening the keeper climb the stairs and light the lamp. The cat sleep beside the lamp. In the "
        'morning the keeper put out the lamp, and the cat go down to the sea."',
        {"temperature": 0.0, "max_tokens": 96},
    ),
    Question(
        "advice, T = 0.8",
        "Give me three tips for a good night's sleep.",
        {"temperature": 0.8, "seed": 7, "max_tokens": 64},
    ),
    Question(
        "a recipe, T = 0, link cut",
        "How do I make a cup of green tea?",
        {"temperature": 0.0, "max_tokens": 72},
        cut_at=24,
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
    """SmolLM2-135M-Instruct and what drafts for it; None: it has not been built."""
    target, draft = BUILD / "smollm2-F16.gguf", BUILD / "smollm2-draft.gguf"
    if not target.exists():
        return None
    with_draft = draft.exists()
    accepted = None if with_draft else LOOKUP_ACCEPTED  # what the draft model has accepted is not known here
    return Pair("SmolLM2-135M-Instruct", target, draft if with_draft else None, REAL_QUESTIONS, 80.0, accepted)
