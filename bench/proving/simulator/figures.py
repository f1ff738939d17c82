"""What a run in virtual time counted."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass
class Figures:
    """Sums over answers; per-token figures divide by `tokens`.

    tokens: of the output, the target's own included. seconds: from the request until the last token is at the edge.
    ttft: until the first one is. navs: verifications that the edge asked for. forwards: steps of the target. busy_s:
    what they took. drafted, sent, accepted: tokens; accepted as architecture §4 counts them. rollbacks: how often
    drafted tokens were discarded. verified: drafts in verification passes; full: passes that accepted all of theirs.
    bytes_up, bytes_down: on the wire, headers included. messages: up.
    """

    answers: int = 0
    tokens: int = 0
    seconds: float = 0.0
    ttft: float = 0.0
    navs: int = 0
    forwards: int = 0
    busy_s: float = 0.0
    drafted: int = 0
    sent: int = 0
    accepted: int = 0
    rollbacks: int = 0
    verified: int = 0
    full: int = 0
    bytes_up: float = 0.0
    bytes_down: float = 0.0
    messages: int = 0

    def add(self, other: Figures) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    @property
    def tpt_ms(self) -> float:
        """Milliseconds per output token."""
        return 1000 * self.seconds / self.tokens

    def row(self) -> dict[str, float]:
        """Means, for a report. Draft length and acceptance are per verification, as in the paper's table 7."""
        navs, tokens = max(self.navs, 1), self.tokens
        return {
            "tpt_ms": self.tpt_ms,
            "ttft_ms": 1000 * self.ttft / self.answers,
            "navs_per_token": self.navs / tokens,
            "forwards_per_token": self.forwards / tokens,
            "busy_ms_per_token": 1000 * self.busy_s / tokens,
            "drafted_per_token": self.drafted / tokens,
            "sent_per_token": self.sent / tokens,
            "accepted_per_token": self.accepted / tokens,
            "bytes_up_per_token": self.bytes_up / tokens,
            "bytes_down_per_token": self.bytes_down / tokens,
            "messages_per_token": self.messages / tokens,
            "rollbacks_per_nav": self.rollbacks / navs,
            "mean_draft": self.verified / navs,
            "acceptance": self.accepted / self.verified if self.verified else 0.0,
            "full_accept": self.full / navs,
            "answers": self.answers,
            "tokens": tokens,
        }
