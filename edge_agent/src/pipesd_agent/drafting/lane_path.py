"""The path of one lane, and what the drafter has of it: pure arithmetic, whose locks are its owner's (`worker`).

The path is prompt + committed tokens + drafts. Commits change it while a forward of the drafter is under way; what the
drafter has may therefore lag behind, and is brought up before each forward by one cut and one extension (`edit`),
however many commits came in the meantime.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from pipesd_agent.drafting.drafter import DraftToken


class CommitEffect(Enum):
    """Effect of a commit on the path."""

    NONE = 1
    """All its tokens were drafted before."""
    EXTENDED = 2
    """The target decided tokens that were not drafted yet."""
    CONTRADICTED = 3
    """A draft was wrong: it and what came after it is gone."""


@dataclass(frozen=True)
class PathEdit:
    """Edit that gives the drafter the current path: keep the first `keep` ids of what it has, then append `ids`.

    truncates: whether it has more than `keep` ids.
    """

    keep: int
    ids: list[int]
    truncates: bool


class LanePath:
    """The path of one lane.

    Attributes:
        version: changes with every change of the path; a forward's draft counts only for the version that it is of.
        commits: number of commits so far.
        limit: first absolute position that must not be drafted.
    """

    def __init__(self, prompt_ids: Sequence[int], eos_ids: frozenset[int]) -> None:
        self.version = 0
        self.commits = 0
        self.limit = 0
        self._ids = list(prompt_ids)
        self._eos_ids = eos_ids
        self._prompt_length = self._committed = len(self._ids)
        self._exhausted_version = -1
        """Version for which the drafter had nothing to propose."""
        self._shared = 0
        """Leading ids that what the drafter has agrees with."""
        self._drafter_length = 0

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def wants_draft(self) -> bool:
        """Whether a further draft is allowed and possible: below the limit, and not after an end-of-sequence token."""
        ids = self._ids
        ended = len(ids) > self._prompt_length and ids[-1] in self._eos_ids  # drafted, or the target's
        return len(ids) < self.limit and not ended and self._exhausted_version != self.version

    def commit(self, tokens: Sequence[int], limit: int) -> CommitEffect:
        """Apply the next decided tokens (possibly none), and move the limit."""
        self.commits += 1
        self.limit = limit
        ids = self._ids
        at, end = self._committed, self._committed + len(tokens)
        for token in tokens:
            if at == len(ids) or ids[at] != token:
                break
            at += 1
        self._committed = end
        if at == end:
            return CommitEffect.NONE
        effect = CommitEffect.CONTRADICTED if at < len(ids) else CommitEffect.EXTENDED
        del ids[at:]
        ids.extend(tokens[at - end :])
        self._shared = min(self._shared, at)
        self.version += 1
        return effect

    def edit(self, max_length: int) -> PathEdit:
        """The edit that gives the drafter the first `max_length` ids of the path; taken to be carried out."""
        keep, truncates = self._shared, self._drafter_length > self._shared
        ids = self._ids[keep:max_length]
        self._shared = self._drafter_length = keep + len(ids)
        return PathEdit(keep, ids, truncates)

    def add_draft(self, draft: DraftToken, version: int) -> bool:
        """Append what the drafter proposed, and has appended to its own path, for `version`.

        False: the path has changed since then, or the limit is reached; the draft is not taken.
        """
        self._drafter_length += 1
        if version != self.version or draft.position >= self.limit:
            return False  # what the drafter has too much is cut before its next forward
        self._ids.append(draft.token)
        self.version += 1
        self._shared += 1
        return True

    def set_exhausted(self, version: int) -> bool:
        """Note that the drafter has nothing to propose for `version`. False: the path has changed since then."""
        self._exhausted_version = version
        return version == self.version
