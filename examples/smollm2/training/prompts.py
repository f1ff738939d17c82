"""Prompts that the target answers to become training texts: made by this script, many kinds, without end.

None of them is of the prompts that anything is measured on. Chats: the user's turn is the target's own too, it goes on
behind the mark of a user. Summaries and half of the edits are about earlier answers of the target; code is from
Python's standard library; the rest is put together from lists.
"""

from __future__ import annotations

import ast
import random
import sysconfig
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SYSTEM: Final = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
BEFORE_USER: Final = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
AFTER_USER: Final = "<|im_end|>\n<|im_start|>assistant\n"
REMEMBERED: Final = 2000
"""Earlier answers of the target that prompts are made of."""
LONGEST: Final = 900
"""Characters of a text or a piece of code in a prompt."""

ABOUT_TEXT: Final = (
    "Summarize the following text in one or two sentences:\n{}",
    "Summarize this text:\n\n{}",
    "{}\n\nWhat are the key points of this text?",
    "List the key points as bullets: {}",
    "Give this text a title and a summary of one sentence.\n\n{}",
    "Explain this text to a child: {}",
    "What is the most important statement here?\n\n{}",
)
EDIT_TEXT: Final = (
    "Rewrite this text more formally and give all of it:\n\n{}",
    "Correct the spelling of this text, and change nothing else:\n\n{}",
    "Turn this text into a bullet list: {}",
    "Make this text friendlier: {}",
    "Rewrite the text in the past tense. Give the whole text.\n\n{}",
    "Shorten this text a little, but keep its words:\n{}",
)
EDIT_CODE: Final = (
    "Add type hints to this function and give the whole function back:\n```python\n{code}```",
    "Add a docstring to this code. Change nothing else.\n```python\n{code}```",
    "Rename `{name}` to `{other}` and give me the whole code.\n\n```python\n{code}```",
    "Add comments to each step of this function, all of it please:\n```python\n{code}```",
    "Add a parameter `verbose` to this function and print what it does:\n```python\n{code}```",
)
ABOUT_CODE: Final = (
    "Write a Python function `{name}`. {sentence}",
    "How do I write a function in Python that does this: {sentence}",
    "Explain this code:\n```python\n{code}```",
    "What does `{name}` do?\n\n```python\n{code}```",
    "Write a unit test for this function:\n```python\n{code}```",
    "Complete this Python function:\n```python\n{head}```",
)
JSON: Final = (
    "Describe {topic} as JSON with the fields {fields}. Answer with JSON only.",
    "Give me three examples of {topic} as a JSON list of objects with {fields}.",
)
FIELDS: Final = ('"name", "kind" and "price"', '"title" and "description"', '"name", "year", "tags"', '"id", "label"')
CHAT: Final = (
    "What is {topic}?",
    "Explain {topic} in simple words.",
    "Give me five tips about {topic}.",
    "Write a short story about {topic}.",
    "Write a poem about {topic}.",
    "What are the advantages and disadvantages of {topic}?",
    "Write an email to a colleague about {topic}.",
    "How did {topic} change over time?",
    "I want to learn about {topic}. Where do I start?",
    "Tell me something surprising about {topic}.",
    "Make a plan for a week of {topic}.",
    "Compare {topic} and {other}.",
)
TOPICS: Final = (
    "bees", "rain forests", "electric cars", "sleep", "the moon", "trains", "bread", "chess", "vaccines", "glaciers",
    "jazz", "solar panels", "a garden in spring", "budgets", "job interviews", "bicycles", "the Roman empire", "tea",
    "public libraries", "volcanoes", "databases", "machine learning", "running", "photography", "the human heart",
    "recycling", "coffee", "whales", "inflation", "city parks", "cooking pasta", "black holes", "meditation", "cats",
    "friendship", "time zones", "earthquakes", "printing", "the internet", "wooden furniture", "mountain hikes",
    "first aid", "learning a language", "a lighthouse", "school lunches", "old maps", "robots", "the sea", "batteries",
    "remote work", "winter", "kites", "board games", "houseplants", "water", "music lessons", "bridges", "a market",
)  # fmt: skip


@dataclass(frozen=True)
class Function:
    """A documented function of the standard library."""

    name: str
    code: str
    head: str
    sentence: str


def library_functions() -> list[Function]:
    """All that are short enough to ask about."""
    found = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
        found += [function for node in nodes if (function := _function(node, text.split("\n"))) is not None]
    return found


def _function(node: ast.FunctionDef, lines: list[str]) -> Function | None:
    documentation = ast.get_docstring(node)
    if not documentation or len(node.body) < 2:
        return None
    begin, first = node.lineno - 1, node.body[0]
    code = "\n".join(line[node.col_offset :] for line in lines[begin : node.end_lineno]) + "\n"
    head = "\n".join(line[node.col_offset :] for line in lines[begin : first.end_lineno]) + "\n"
    sentence = " ".join(documentation.split(".")[0].split())
    return Function(node.name, code, head, sentence) if len(code) <= LONGEST else None


class Prompts:
    """Makes prompts; told what the target answered, it asks about that too."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._functions = library_functions()
        self._answers: deque[str] = deque(maxlen=REMEMBERED)

    def remember(self, answer: str) -> None:
        """Take an answer of the target as material."""
        if len(answer) >= 200:
            self._answers.append(answer[:LONGEST])

    def next(self) -> str | None:
        """A user's turn; None: the target writes that too."""
        kind = self._random.random()
        if kind < 0.25:
            return None
        if kind < 0.45:
            topic, other = self._random.sample(TOPICS, 2)
            return self._random.choice(CHAT).format(topic=topic, other=other)
        if kind < 0.5:
            fields = self._random.choice(FIELDS)
            return self._random.choice(JSON).format(topic=self._random.choice(TOPICS), fields=fields)
        if kind < 0.75 or not self._answers:
            function, model = self._random.choice(self._functions), self._random.choice(self._functions)
            forms = EDIT_CODE if kind < 0.62 else ABOUT_CODE
            return self._random.choice(forms).format(
                name=function.name, code=function.code, head=function.head, sentence=function.sentence, other=model.name
            )
        return self._random.choice(ABOUT_TEXT if kind < 0.9 else EDIT_TEXT).format(self._random.choice(self._answers))

    def temperature(self) -> float:
        """Of an answer: half are greedy, as half of what is measured is."""
        return self._random.choice((0.0, 0.0, 0.0, 0.8, 0.8, 1.0))
