"""The interface of drafters, which propose tokens on the worker's thread (architecture §6)."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any, Protocol

import msgspec

from pipesd_core.sampling.params import SamplingParams


class DraftToken(msgspec.Struct, frozen=True):
    """One proposed token.

    position: absolute index in prompt + output. confidence: 0..1, estimated probability that the target decides the
    same token. margin: best minus second best of the scores that the token was chosen by (at T > 0 perturbed by the
    shared noise). entropy: of the draft's softmax at temperature 1, in nats. seconds: duration of the forward that made
    it, for however many lanes; set by the worker, unless the forward caught up with a path as well.
    margin, entropy and seconds are 0.0 where unknown. own_confidence: what the drafter said, where
    `confidence` was calibrated since.
    """

    position: int
    token: int
    confidence: float
    margin: float = 0.0
    entropy: float = 0.0
    seconds: float = 0.0
    own_confidence: float | None = None

    @property
    def drafter_confidence(self) -> float:
        """What the drafter said, 0..1, whether it was calibrated or not."""
        return self.confidence if self.own_confidence is None else self.own_confidence


class AnswerForm(msgspec.Struct, frozen=True):
    """What a request says of the form of its answer.

    response_format: as in its body, unchecked. begins: absolute index of the answer's first token.
    """

    response_format: Any
    begins: int


class NoDraft(Enum):
    """Reason why a lane got no token from a forward."""

    UNFINISHED = 1
    """It is still feeding its path, or was aborted: call again."""
    NOTHING = 2
    """It has nothing to propose until its path changes."""


class Drafter(Protocol):
    """Proposes tokens for several lanes. A lane is a path of ids and what has been computed of it.

    All methods run on one thread, the worker's, except `stop`. Any exception is the end of the drafter.
    """

    @property
    def capacity(self) -> int:
        """Number of lanes, which are numbered from 0."""

    @property
    def max_context(self) -> int:
        """Longest path, in ids; no longer one is ever given to `open` or `extend`."""

    @property
    def fingerprint(self) -> bytes | None:
        """Fingerprint of the vocabulary (architecture §4); None: it drafts for any vocabulary."""

    @property
    def n_vocab(self) -> int | None:
        """Number of ids that can be in a path; no other is ever given to `open` or `extend`. None: any id can.

        Equal fingerprints do not make it the target's: that may have more padding ids, which a prompt may hold.
        """

    def open(self, lane: int, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        """Give a free lane a path. Cheap: the feeding is done by `draft`."""

    def constrain(self, lane: int, form: AnswerForm) -> None:
        """Say, right after `open`, what form the answer has: a hint, by which drafts may be left out."""

    def close(self, lane: int) -> None:
        """Free a lane."""

    def extend(self, lane: int, ids: Sequence[int]) -> None:
        """Append ids that others decided to the path. Cheap."""

    def truncate(self, lane: int, length: int) -> None:
        """Cut the path to `length` ids (1 <= length <= its length)."""

    def behind(self, lane: int) -> bool:
        """Whether more of the path is unfed than its last id, so that `draft(..., feed=[lane])` is worth a call."""

    def draft(self, lanes: Sequence[int], feed: Sequence[int] = ()) -> list[DraftToken | NoDraft]:
        """Run one forward of bounded length: the next token of each of `lanes`, in their order; it joins the path.

        feed: further lanes, only to be fed. A lane that is far behind takes several calls and holds up the others by
        no more than one bounded chunk a call.
        """

    def stop(self) -> None:
        """Abort the forward under way, if there is one; any thread. It may also come too late, or too early."""

    def release(self) -> None:
        """Free everything; the last call."""
