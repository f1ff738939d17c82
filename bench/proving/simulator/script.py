"""A trace, read the way a run in virtual time reads it: what is drafted next, and is it right?"""

from __future__ import annotations

from bench.proving.traces.table import DEPTH, NOTHING, Trace
from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.session.policies import Trigger


class Script:
    """A trace as plain Python objects, made when first asked for: tuning plays the same one many times.

    body: of the request; empty: not known, and taken to be of its usual size."""

    def __init__(self, trace: Trace, body: bytes = b"") -> None:
        self.name = trace.name
        self.body = body
        self.prompt_length = trace.prompt_length
        self.temperature = trace.temperature
        self.eos = frozenset(trace.eos)
        self.truth: list[int] = trace.tokens.tolist()
        self.right: list[bool] = (trace.drafts[:, 0] == trace.tokens).tolist()
        """right[p]: does the drafter propose the target's token after the first p?"""
        self.knows_entropy = bool(trace.entropy.any())
        """Made-up traces have neither entropies nor margins, and prompt lookup has none."""
        self._trace = trace
        self._tokens: dict[tuple[int, int], DraftToken | None] = {}

    def __len__(self) -> int:
        """Output tokens."""
        return len(self.truth)

    def check_trigger(self, trigger: Trigger) -> None:
        """Raises ValueError for one that goes by entropies which are not known: it would take 0.0 for certainty."""
        if getattr(trigger, "needs_entropy", False) and not self.knows_entropy:
            raise ValueError(
                f"{self.name}: trigger {type(trigger).__name__} goes by the drafter's entropy, which this trace does "
                "not know: play a recorded workload, or another trigger"
            )

    def draft(self, agreed: int, length: int) -> DraftToken | None:
        """The next token of a path of `length` output tokens, of which the first `agreed` are the target's.

        None: the drafter has nothing to propose (its end of text, or more than DEPTH tokens astray).
        """
        key = agreed, length - agreed
        if key not in self._tokens:
            self._tokens[key] = self._make(*key)
        return self._tokens[key]

    def exhausted(self, agreed: int, length: int) -> bool:
        """Has the drafter looked there, and found nothing to propose?"""
        return length - agreed < DEPTH and self._trace.drafts[agreed, length - agreed] == NOTHING

    def _make(self, row: int, column: int) -> DraftToken | None:
        trace = self._trace
        if column >= DEPTH or (token := int(trace.drafts[row, column])) < 0:
            return None
        return DraftToken(
            self.prompt_length + row + column,
            token,
            float(trace.confidence[row, column]),
            float(trace.margin[row, column]),
            float(trace.entropy[row, column]),
        )
