"""The figures that the agent adds to an answer: `usage.pipesd`, and `timings` as llama-server writes them.

They go into the payloads that have a usage object and into no other: a whole answer, the last chunk of a stream with
`include_usage` (with vLLM's `continuous_usage_stats` every chunk, each with the figures so far), or the event of other
routes' streams that has the counts of the whole answer. What the engine wrote into `usage` stays as it is:
`accepted_prediction_tokens` and `rejected_prediction_tokens` are about the request parameter `prediction` (text that
the client expects), which drafts of ours are not.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from pipesd_agent.drafting.status import DraftingOff
from pipesd_agent.session.counts import Counts
from pipesd_core import answer_format
from pipesd_core.errors import EngineFailed

_MIN_MS: Final = 1e-3
"""Shortest time in `timings`, as in llama-server: no rate is infinite."""


class TokenTimes(Struct):
    """Arrival of an answer's tokens at the agent: clock readings in seconds.

    started: of the request at the agent. first, last: of the verdict with the first and with the newest token; None:
    no token has arrived.
    """

    started: float
    first: float | None = None
    last: float | None = None

    def arrived(self, now: float) -> None:
        """Note a verdict that arrived at `now`."""
        self.first = now if self.first is None else self.first
        self.last = now


class _Choice(Struct):
    finish_reason: Any = None


class _Answer(Struct):
    choices: tuple[_Choice, ...] = ()


def completes(payload: bytes) -> bool:
    """Whether a payload with a usage object is the answer's last: vLLM can be asked for usage in every chunk."""
    try:
        answer = msgspec.json.decode(payload, type=_Answer)
    except msgspec.DecodeError:
        return False
    return all(choice.finish_reason is not None for choice in answer.choices)


def usage_payload(
    payload: bytes, counts: Counts, times: TokenTimes | None = None, off: DraftingOff | None = None
) -> bytes:
    """The payload with the session's drafts in its usage object and, where `times` has a token, with `timings`.

    off: why the answer was not drafted for, or not to its end.
    """
    answer = msgspec.json.decode(payload)
    usage = answer_format.usage_in(answer)
    if usage is None:
        raise EngineFailed("the answer has no counts where the gateway says that it has some")
    prompt_tokens, output_tokens = answer_format.counts_of(usage)
    usage["pipesd"] = drafts(counts, off)
    if times is not None and (figures := timings(prompt_tokens, output_tokens, counts, times)):
        answer_format.body_in(answer)["timings"] = figures
    return msgspec.json.encode(answer)


def drafts(counts: Counts, off: DraftingOff | None = None) -> dict[str, Any]:
    """`usage.pipesd`, in tokens and forward passes.

    drafted: tokens that the device drafted. accepted: drafts sent to the target that are the token it decided at their
    position. rejected: all other drafts sent; what was drafted and never sent is in neither. target_forwards: the
    target's forward passes for this answer, the prompt's included. drafting, reason: only where there is an `off`.
    """
    figures: dict[str, Any] = {
        "drafted": counts.drafted,
        "accepted": counts.accepted,
        "rejected": counts.rejected,
        "target_forwards": counts.forwards,
    }
    return figures if off is None else figures | {"drafting": "off", "reason": off}


def timings(prompt_tokens: int, completion_tokens: int, counts: Counts, times: TokenTimes) -> dict[str, Any]:
    """`timings` under llama-server's names, by the agent's clock; empty before the first token.

    prompt_ms: from the request to its first token, so the network and the gateway's admission queue are in it.
    predicted_ms: from the first token to the last. prompt_n: all of the prompt, whatever of it was in a KV cache
    (llama-server counts the rest only). draft_n: drafts sent to the target; left out where there were none.
    """
    if times.first is None or times.last is None:
        return {}
    prompt_ms = max(1e3 * (times.first - times.started), _MIN_MS)
    predicted_ms = max(1e3 * (times.last - times.first), _MIN_MS)
    figures: dict[str, Any] = {
        "prompt_n": prompt_tokens,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": prompt_ms / max(prompt_tokens, 1),
        "prompt_per_second": 1e3 * prompt_tokens / prompt_ms,
        "predicted_n": completion_tokens,
        "predicted_ms": predicted_ms,
        "predicted_per_token_ms": predicted_ms / max(completion_tokens, 1),
        "predicted_per_second": 1e3 * completion_tokens / predicted_ms,
    }
    if counts.sent:
        figures |= {"draft_n": counts.sent, "draft_n_accepted": counts.accepted}
    return figures
