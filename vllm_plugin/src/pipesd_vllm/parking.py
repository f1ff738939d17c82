"""The book of the parking scheduler: where each session is, and what of its round is still to be scheduled.

Nothing here knows vLLM. A session is at one stage at a time. With asynchronous scheduling a step is put together while
the output of the one before is still in flight, so what a round needs is counted when it is *scheduled*; its tokens
are taken when they arrive.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from enum import Enum, auto
from typing import Any

from msgspec import Struct, field

from pipesd_core.engine.rounds import Round


class Stage(Enum):
    """Where a session's request is."""

    QUEUED = auto()
    """In a queue of vLLM's: waiting or running."""
    IN_FLIGHT = auto()
    """In no queue: all of its round is scheduled, or what comes next depends on an output that is not there."""
    READY = auto()
    """In no queue: it has a round, and waits for room in `running`."""
    PARKED = auto()
    """In no queue: it waits for its edge, and keeps its KV blocks."""
    EVICTED = auto()
    """In no queue: it waits for its edge without KV blocks; PREEMPTED."""


HOLDING = (Stage.IN_FLIGHT, Stage.READY, Stage.PARKED)
"""Stages outside of vLLM's queues at which a session keeps its KV blocks, and its slot in the V2 worker."""


class Session(Struct, eq=False):
    """A session's request and round.

    Attributes:
        request: vLLM's.
        since: when its round was asked for, or its last token came (monotonic, as all times here).
        to_schedule: steps of the round that are not scheduled yet.
        owed: drafts that the next step has to carry to decide the round's first part.
    """

    request_id: str
    key: str
    request: Any
    round: Round
    since: float
    to_schedule: int
    owed: int = 0
    stage: Stage = Stage.QUEUED
    _begun: deque[float] = field(default_factory=deque)
    """When each step that is in flight was scheduled; a prompt's parts are one step."""
    _in_prompt: bool = False

    def order(self, drafts: Sequence[int], ahead: int, asked_at: float) -> None:
        """Begin the next round."""
        self.round, self.since = Round(drafts, ahead), asked_at
        self.count_anew()

    def count_anew(self) -> None:
        """Owe all that the target has not decided yet. Only where no output is in flight that will be delivered."""
        self.owed, self.to_schedule = len(self.round.left), self.round.steps_left

    def outputs_dropped(self) -> None:
        """Take note that the steps in flight count for nothing: their outputs will not be delivered."""
        self.count_anew()
        self._begun.clear()
        self._in_prompt = False

    def scheduled(self, drafts: int, in_prompt: bool, now: float) -> bool:
        """Take note of a step. Returns whether the session can be scheduled again before that step's output is there.

        Args:
            drafts: how many the step carries.
            in_prompt: the step computes a part of the prompt (after an eviction: of all tokens) that is not its last.
        """
        if not self._in_prompt:
            self._begun.append(now)
        self._in_prompt = in_prompt
        if in_prompt:
            return True
        self.to_schedule -= 1
        # Drafts that did not all go along: nobody knows what the others are worth before the output is there.
        decides, self.owed = drafts == self.owed, 0
        return decides and self.to_schedule > 0

    def stepped(self, tokens: Sequence[int], now: float) -> tuple[int, int]:
        """Take the tokens that a step has decided. Returns how long it waited and how long it took, in microseconds."""
        # The step may have been scheduled before the output of the one before it was there.
        begun = max(self._begun.popleft() if self._begun else now, self.since)
        waited, took = begun - self.since, now - begun
        self.since = now
        self.round.take(tokens)
        return int(1e6 * waited), int(1e6 * took)


class SessionBook:
    """All sessions of one scheduler, by request id, by park key, and by stage in the order in which they came to it."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._by_key: dict[str, Session] = {}
        self._at: dict[Stage, OrderedDict[str, Session]] = {stage: OrderedDict() for stage in Stage}

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, request_id: str, key: str, request: Any, ahead: int, now: float) -> None:
        """Enter a session whose request is about to be queued: its first round has no drafts."""
        session = Session(request_id, key, request, Round((), ahead), now, 1 + ahead)
        self._sessions[request_id] = self._by_key[key] = session
        self._at[session.stage][request_id] = session

    def close(self, request_id: str) -> None:
        """Strike a session out, if there is one of that request."""
        if (session := self._sessions.pop(request_id, None)) is not None:
            del self._by_key[session.key]
            del self._at[session.stage][request_id]

    def get(self, request_id: str) -> Session | None:
        """The session of a request."""
        return self._sessions.get(request_id)

    def of_key(self, key: str) -> Session | None:
        """The session of a park key."""
        return self._by_key.get(key)

    def move(self, session: Session, stage: Stage) -> None:
        """Put a session at a stage, behind all that are there."""
        del self._at[session.stage][session.request_id]
        session.stage = stage
        self._at[stage][session.request_id] = session

    def at(self, stage: Stage) -> list[Session]:
        """The sessions at a stage, the longest there first."""
        return list(self._at[stage].values())

    def first(self, stage: Stage) -> Session | None:
        """The session that is longest at a stage."""
        return next(iter(self._at[stage].values()), None)

    def count(self, *stages: Stage) -> int:
        """How many sessions are at any of these stages."""
        return sum(len(self._at[stage]) for stage in stages)
