"""Eligibility for speculative decoding: which requests cannot be drafted for, as their answer is not one sequence.

A session is one sequence of one prompt (architecture §2.2). Every other request goes to the target's own OpenAI API
(`link.passthrough`).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from pipesd_core.protocol.messages import Endpoint

_NOT_JSON: Final = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


class _Peek(Struct):
    """prompt stays as it came: it may be long, and its first bytes say whether it can hold several."""

    n: Any = None
    use_beam_search: Any = None


class _PeekCompletions(_Peek):
    best_of: Any = None
    prompt: Raw = Raw(b"")
    prompt_embeds: Raw = Raw(b"")


def why_ineligible(endpoint: Endpoint, body: bytes) -> str | None:
    """The reason why a request cannot be drafted for; None: it can, or it is wrong, and the gateway will say so."""
    try:
        if endpoint is Endpoint.COMPLETIONS:
            peek = msgspec.json.decode(body, type=_PeekCompletions)
            return _of_any(peek) or _of_completions(peek)
        return _of_any(msgspec.json.decode(body, type=_Peek))
    except _NOT_JSON:
        return None


def _of_any(peek: _Peek) -> str | None:
    if _several(peek.n):
        return f"n = {str(peek.n)[:20]} cannot be drafted for"
    return "use_beam_search cannot be drafted for" if peek.use_beam_search is True else None


def _of_completions(peek: _PeekCompletions) -> str | None:
    if _several(peek.best_of):
        return f"best_of = {str(peek.best_of)[:20]} cannot be drafted for"
    if bytes(peek.prompt_embeds) not in (b"", b"null", b"[]"):
        return "prompt_embeds cannot be drafted for"
    prompts = _prompts(bytes(peek.prompt))
    return f"{prompts} prompts in one request cannot be drafted for" if prompts > 1 else None


def _several(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 1


def _prompts(prompt: bytes) -> int:
    """How many a list of prompts holds; 0: it is no such list."""
    if not prompt.startswith(b"[") or prompt[1:64].lstrip()[:1] not in (b'"', b"["):
        return 0
    items = msgspec.json.decode(prompt, type=list[Raw])
    kinds = {bytes(memoryview(item)[:1]) for item in items}
    return len(items) if len(kinds) == 1 else 0
