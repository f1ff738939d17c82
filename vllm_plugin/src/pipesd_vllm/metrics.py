"""What the plugin adds to vLLM's own `/metrics`."""

from __future__ import annotations

from prometheus_client import Counter

_SESSIONS = Counter("pipesd_sessions", "Sessions that were opened")
_ROUNDS = Counter("pipesd_rounds", "Rounds of sessions, verified or free")
_DRAFTS = Counter("pipesd_drafts", "Drafts that were handed to the engine")
_ACCEPTED = Counter("pipesd_drafts_accepted", "Drafts that were right")
_TOKENS = Counter("pipesd_tokens", "Output tokens of sessions")


class Metrics:
    """Counts for one API server."""

    def session(self) -> None:
        _SESSIONS.inc()

    def step(self, verified: int, accepted: int, tokens: int) -> None:
        _ROUNDS.inc()
        _DRAFTS.inc(verified)
        _ACCEPTED.inc(accepted)
        _TOKENS.inc(tokens)
