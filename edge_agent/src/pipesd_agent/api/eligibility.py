"""Eligibility for speculative decoding: which requests cannot be drafted for.

A session is one sequence of one prompt of text (architecture §2.2): a drafter reads token ids, and those of an image
say nothing of it. Every other request goes to the target's own OpenAI API (`link.passthrough`).
"""

from __future__ import annotations

from pipesd_core.openai_body import NOT_JSON, BodyOutline, is_more_than_one, may_be_true, read_outline
from pipesd_core.protocol.messages import Endpoint


def why_ineligible(endpoint: Endpoint, body: bytes) -> str | None:
    """The reason why a request cannot be drafted for; None: it can, or it is wrong, and the gateway will say so."""
    try:
        outline = read_outline(body)
        if endpoint is Endpoint.RESPONSES:
            return _why_no_response(outline)
        if is_more_than_one(outline.n):
            return f"n = {str(outline.n)[:20]} cannot be drafted for"
        if may_be_true(outline.use_beam_search):
            return "use_beam_search cannot be drafted for"
        if endpoint is not Endpoint.COMPLETIONS:
            other = outline.other_than_text()
            return None if other is None else f"a message with {other[:30]!r} cannot be drafted for"
        if is_more_than_one(outline.best_of):
            return f"best_of = {str(outline.best_of)[:20]} cannot be drafted for"
        if outline.has_prompt_embeds:
            return "prompt_embeds cannot be drafted for"
        prompts = len(outline.prompts(endpoint))
    except NOT_JSON:
        return None
    return f"{prompts} prompts in one request cannot be drafted for" if prompts > 1 else None


def _why_no_response(outline: BodyOutline) -> str | None:
    if may_be_true(outline.background):
        return "background cannot be drafted for"
    if (kind := outline.server_tool()) is not None:
        return f"a tool of type {kind[:30]!r} cannot be drafted for: the server runs it in between"
    other = outline.other_than_text()
    return None if other is None else f"an item with {other[:30]!r} cannot be drafted for"
