"""The counts of one session: the one place where accepted and rejected drafts are counted (architecture §4).

`usage` of an answer, its record and `/metrics` all read these, so that they cannot disagree.
"""

from __future__ import annotations

from msgspec import Struct


class Counts(Struct):
    """Numbers of one session so far; none of them ever falls.

    tokens: output tokens that the target decided. forwards: steps of the target. verifications: those steps that a
    draft message asked for. requests: draft messages that asked for one; several may end in one step. drafted: tokens
    drafted. sent: drafts that left the device, one that is sent again counted once. accepted: sent drafts that are the
    committed token at their position, the target's own token after the last right draft included. discards: how often
    the target contradicted the drafts, which were thrown away then.
    """

    tokens: int = 0
    forwards: int = 0
    verifications: int = 0
    requests: int = 0
    drafted: int = 0
    sent: int = 0
    accepted: int = 0
    discards: int = 0

    @property
    def rejected(self) -> int:
        """Sent drafts that were not accepted; those whose position is not decided yet are among them."""
        return self.sent - self.accepted

    def add(self, other: Counts) -> None:
        """Add those of another session."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))
