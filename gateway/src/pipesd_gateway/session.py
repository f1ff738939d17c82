"""The gateway's side of one session, sans-I/O (architecture §4).

Messages from the edge, what the engine did, and clock readings go in; messages to the edge and orders to the engine
come out. Nothing here knows of sockets, threads or models. The words are those of the edge's side
(`pipesd_agent.session.session`): `receive`, `suspended`, `resumed`, `link_lost`, `tick`. After each of them, and after
`step_done`, `payload`, `finished` and `broken`: `take_outputs`, carry them out in order, and `tick` by `deadline`.

What is kept: the committed ids, the *path* (drafts held after them), the epoch that the path belongs to, whether the
path is dead, the pending request for verification, and how far a free run goes. The edge owns the epoch; the gateway
only adopts it. And every message since the last acknowledged one: a session outlives its link for the grace time, and
the edge gets what it missed when it resumes.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from enum import Enum, auto
from typing import Final

import msgspec

from pipesd_core import retry_after
from pipesd_core.engine.interface import Opening, Payload, StepDone
from pipesd_core.errors import ApiError, InvalidRequest, OutOfState, ProtocolError
from pipesd_core.protocol.messages import (
    FOREVER,
    MAX_FRAME_BYTES,
    MAX_STAMPS,
    MAX_UNACKED,
    MAX_UNACKED_BYTES,
    STAMP_PERIOD_US,
    Ack,
    Close,
    Desync,
    Draft,
    End,
    Event,
    Failed,
    Opened,
    Reason,
    Run,
    Verdict,
)
from pipesd_gateway.limits import SessionLimits
from pipesd_gateway.orders import Abort, Output, Step

NEVER_RUN: Final = 0
MAX_AHEAD: Final = 15
"""Most steps ordered at once beyond the first, in a free run that drafts cannot end: a round trip to the engine for
each token would cost more than the step of a small model."""
MAX_PATH: Final = 4096
"""Drafts held at most; an edge that sends more without asking for verification is told `Desync`."""
MAX_PAYLOAD_BYTES: Final = MAX_FRAME_BYTES - 1024
"""Most bytes of an event: a larger frame would end the link, and every session of its agent, again and again."""


class AnswerTooLarge(InvalidRequest):
    code = "answer_too_large"


class _RunKind(Enum):
    """Origin of the free run under way: only the edge's own survives the edge's next message."""

    NONE = auto()
    START = auto()
    TIMEOUT = auto()
    EDGE = auto()


def failed(channel: int, error: ApiError) -> Failed:
    """The message that ends a session with an API error."""
    again_s = retry_after.whole(error.retry_after_s)
    return Failed(channel, error.code or error.type, error.status, msgspec.json.encode(error.body()), again_s)


class GatewaySession:
    """One session. Created when the engine has accepted the request.

    After every call of a method that changes it, carry out `take_outputs`, in order; call `tick` at `deadline`.

    Args:
        channel: the edge's name for the session on its connection.
        session_id: 16 random bytes.
        opening: the request as the engine understood it.
        collaborative: whether drafts will come; False makes `Draft` a protocol error.
        free_start: of the `Open`.
        n_vocab, max_drafts: of the target.
        now: clock reading in seconds, as everywhere here; only differences mean anything.
        asked: when the `Open` arrived; None: now.
    """

    def __init__(
        self,
        channel: int,
        session_id: bytes,
        opening: Opening,
        *,
        collaborative: bool,
        n_vocab: int,
        max_drafts: int,
        limits: SessionLimits,
        now: float,
        asked: float | None = None,
        free_start: int = FOREVER,
    ) -> None:
        self.channel = channel
        self.session_id = session_id
        self.collaborative = collaborative
        self.ended = False
        self.gone = False
        """Whether nothing is left that could be resumed."""
        self._opening = opening
        self._n_vocab = n_vocab
        self._max_drafts = max_drafts
        self._limits = limits
        self._committed: list[int] = list(opening.prompt_ids)
        self._last_draftable = len(opening.prompt_ids) + opening.max_tokens - 2
        self._path: list[int] = []
        self._path_epoch = 0
        self._dead = False
        self._verify_through: int | None = None
        self._run_until = min(len(opening.prompt_ids) + free_start - 1, FOREVER)
        self._run_kind = _RunKind.START
        self._stepping: Reason | None = None
        self._steps_due = 0
        """Number of steps ordered and not done."""
        self._last_step_done = False
        self._seq = 0
        self._acked = 0
        self._unacked: deque[Verdict | Event | End] = deque()
        """Messages from `_acked` + 1 to `_seq`."""
        self._unacked_bytes = 0
        self._failed: Failed | None = None
        self._suspended_since: float | None = None
        self._parked_since: float | None = None
        """Time since which the edge has sent nothing."""
        self._stalled_since: float | None = None
        self._recv_us = 0
        self._step_recv_us = 0
        self._received_count = 1
        self._arrivals: deque[int] = deque((_microseconds(now if asked is None else asked),), MAX_STAMPS)
        """Arrival times of the last messages of the edge, which no verdict has reported yet, in us."""
        self._outputs: list[Output] = [
            Opened(
                channel,
                session_id,
                opening.prompt_ids,
                opening.params,
                opening.max_tokens,
                opening.eos_ids,
                opening.model,
                opening.stop,
                opening.ignored,
            )
        ]
        self._advance(now)

    # Outputs.

    def take_outputs(self) -> list[Output]:
        """Messages and orders since the last call, in order."""
        outputs, self._outputs = self._outputs, []
        return outputs

    @property
    def committed(self) -> Sequence[int]:
        """Prompt and output ids that the target has decided."""
        return self._committed

    @property
    def held(self) -> int:
        """Number of drafts held after the committed ids."""
        return len(self._path)

    def deadline(self) -> float | None:
        """The time at which `tick` has to be called at the latest; None: never."""
        if self.gone:
            return None
        if self._suspended_since is not None:
            return self._suspended_since + self._limits.grace_s
        if self.ended:
            return None
        if self._stalled_since is not None:
            return self._stalled_since + self._limits.stall_timeout_s
        if self._parked_since is not None:
            return self._parked_since + self._limits.park_timeout_s
        return None

    # Inputs.

    def receive(self, message: Draft | Run | Ack | Close, now: float) -> None:
        """Take a message of the edge. Raises ProtocolError: then call `protocol_failure`."""
        if self.ended:
            return
        self._received_count += 1
        self._arrivals.append(_microseconds(now))
        match message:
            case Draft():
                self._receive_draft(message, now)
            case Run():
                self._run_until = message.until
                self._run_kind = _RunKind.EDGE
            case Ack():
                if message.seq > self._seq:
                    raise OutOfState(f"ack of {message.seq}, but only {self._seq} messages have been sent")
                self._acknowledged(message.seq)
            case Close():
                self.gone = True
                self._outputs.append(Abort())
                self._end(End(self.channel, self._next_seq()))
                return
        self._advance(now)

    def step_done(self, step: StepDone, now: float) -> None:
        """Take the outcome of a step that was ordered from the engine."""
        if self.ended or self._stepping is None:
            return
        reason = self._stepping
        self._steps_due -= 1
        if not self._steps_due:
            self._stepping = None
        start = len(self._committed)
        for token in step.tokens:
            self._commit(token)
        if self._verify_through is not None and (self._dead or len(self._committed) > self._verify_through):
            self._verify_through = None
        if len(self._committed) > self._run_until:
            self._stop_run()
        self._send(
            Verdict(
                self.channel,
                self._next_seq(),
                start,
                step.verified,
                step.accepted,
                step.tokens,
                reason,
                step.queue_us,
                step.forward_us,
                self._step_recv_us,
                self._received_count,
                self._stamps(),
            )
        )
        self._step_recv_us = 0
        self._last_step_done = step.ends
        self._advance(now)

    def payload(self, payload: Payload) -> None:
        """Take a payload of the engine. The tokens of its text have been in verdicts already."""
        if self.ended:
            return
        if len(payload.data) > MAX_PAYLOAD_BYTES:
            self._outputs.append(Abort())
            too_large = AnswerTooLarge(
                f"a part of the answer has {len(payload.data)} bytes, but {MAX_PAYLOAD_BYTES} is the most that travels "
                "to the agent at once: ask with stream: true, for fewer tokens, or for fewer logprobs"
            )
            self._end(failed(self.channel, too_large))
        else:
            upto = len(self._opening.prompt_ids) + payload.upto
            self._send(Event(self.channel, self._next_seq(), upto, payload.data, payload.usage))

    def finished(self) -> None:
        """End the session: the engine's answer is complete."""
        if not self.ended:
            self._end(End(self.channel, self._next_seq()))

    def broken(self, error: ApiError) -> None:
        """End the session with an error: the engine cannot go on."""
        if not self.ended:
            self._end(failed(self.channel, error))

    def protocol_failure(self, error: ProtocolError) -> None:
        """End this session, and it alone: the edge broke the protocol in it."""
        if not self.ended:
            body = {
                "error": {
                    "message": f"the edge agent broke the session protocol: {error}",
                    "type": "server_error",
                    "param": None,
                    "code": error.code,
                }
            }
            self._outputs.append(Abort())
            self._end(Failed(self.channel, error.code, 502, msgspec.json.encode(body)))

    def suspended(self, now: float) -> None:
        """Note that the link is gone.

        Until `resumed` or the end of the grace time nothing is sent, and nothing computed but a free run that no draft
        could end.
        """
        if self._suspended_since is None:
            self._suspended_since = now
            self._kill_path()
            self._stalled_since = None
            if self._run_kind is _RunKind.TIMEOUT:
                self._stop_run()
            if not self._limits.grace_s:
                self.link_lost()

    @property
    def suspended_since(self) -> float | None:
        """The time at which the link was lost; None: there is one."""
        return self._suspended_since

    def can_resume(self, seq: int) -> bool:
        """Whether every message after `seq` is still here."""
        return not self.gone and self._acked <= seq <= self._seq

    def resumed(self, channel: int, seq: int, now: float) -> None:
        """Continue on another connection with an edge that has all up to `seq`; see `can_resume`."""
        self.channel = channel
        self._suspended_since = None
        self._stalled_since = None
        self._kill_path()
        self._outputs += [_replayed(message, channel) for message in self._unacked if message.seq > seq]
        self._received_count = 1
        self._arrivals.clear()
        self._arrivals.append(_microseconds(now))
        if self._failed is not None:
            self._outputs.append(msgspec.structs.replace(self._failed, channel=channel))
        self._advance(now)

    def link_lost(self) -> None:
        """End a session that nobody will resume."""
        self.gone = True
        if not self.ended:
            self.ended = True
            self._outputs.append(Abort())

    def tick(self, now: float) -> None:
        """Advance the clock: carry out what `deadline` announced."""
        due = self.deadline()
        if due is None or now < due:
            return
        if self._suspended_since is not None:
            self.link_lost()
            return
        if self._stalled_since is not None:
            self.protocol_failure(
                OutOfState(
                    f"{self._seq - self._acked} messages of {self._unacked_bytes} bytes are unacknowledged "
                    f"(limits {MAX_UNACKED} and {MAX_UNACKED_BYTES}) for {self._limits.stall_timeout_s} s: "
                    "the client reads too slowly"
                )
            )
            return
        self._run_until = FOREVER
        self._run_kind = _RunKind.TIMEOUT
        self._advance(now)

    # Private.

    def _receive_draft(self, draft: Draft, now: float) -> None:
        if not self.collaborative:
            raise OutOfState("draft in a session that was opened without a vocabulary fingerprint")
        for token in draft.ids:
            if token >= self._n_vocab:
                raise OutOfState(f"draft id {token} is outside the vocabulary of {self._n_vocab}")
        if self._run_kind in (_RunKind.START, _RunKind.TIMEOUT):
            self._stop_run()
        if draft.epoch < self._path_epoch:
            return
        if draft.epoch > self._path_epoch:
            self._path_epoch = draft.epoch
            self._path.clear()
            self._dead = False
            self._verify_through = None
        if self._dead:
            return
        self._recv_us = _microseconds(now)
        fault = self._extend_path(draft.start, draft.ids)
        if fault is not None:
            self._kill_path()
            self._outputs.append(Desync(self.channel, draft.epoch, len(self._committed), fault))
        elif (through := draft.verify_through) is not None and not self._dead:
            through = min(through, len(self._committed) + len(self._path))
            if through >= len(self._committed):
                self._verify_through = max(through, self._verify_through or 0)

    def _extend_path(self, start: int, ids: Sequence[int]) -> str | None:
        """Compare ids with what is committed and held, append the new ones. Returns what is wrong, if anything."""
        base = len(self._committed)
        end = base + len(self._path)
        if start > end and end <= self._last_draftable:
            return f"drafts start at {start}, but {end} is the next position"
        for position, token in enumerate(ids, start):
            if position > self._last_draftable:
                break  # the target decides the last token anyway
            if position < base:
                if self._committed[position] != token:
                    self._kill_path()
                    break
            elif position < end:
                if self._path[position - base] != token:
                    return f"drafts of one epoch contradict each other at position {position}"
            elif len(self._path) >= MAX_PATH:
                return f"more than {MAX_PATH} drafts are held"
            else:
                self._path.append(token)
        return None

    def _commit(self, token: int) -> None:
        self._committed.append(token)
        if not self._path:
            return  # in-flight drafts for this position are compared when they arrive
        if self._path[0] == token:
            del self._path[0]
        else:
            self._kill_path()

    def _kill_path(self) -> None:
        self._path.clear()
        self._dead = True
        self._verify_through = None

    def _stop_run(self) -> None:
        self._run_until = NEVER_RUN
        self._run_kind = _RunKind.NONE

    def _advance(self, now: float) -> None:
        """Order the next step if there is a reason for one; else park."""
        self._parked_since = None
        if self._stepping is not None or self._last_step_done or self.ended:
            return
        if self._suspended_since is not None and self.collaborative and self._run_kind is not _RunKind.EDGE:
            return
        if self._seq - self._acked > MAX_UNACKED or self._unacked_bytes > MAX_UNACKED_BYTES:
            self._stalled_since = self._stalled_since if self._stalled_since is not None else now
            return
        self._stalled_since = None
        if self._verify_through is not None:
            reason = Reason.VERIFICATION
        elif len(self._committed) <= self._run_until:
            reason = Reason.TIMEOUT if self._run_kind is _RunKind.TIMEOUT else Reason.RUN
        else:
            self._parked_since = now
            return
        self._stepping = reason
        self._step_recv_us, self._recv_us = self._recv_us, 0
        drafts = tuple(self._path[: self._max_drafts])
        ahead = 0 if drafts or reason is Reason.VERIFICATION else self._ahead()
        self._steps_due = 1 + ahead
        self._outputs.append(Step(drafts, ahead))

    def _ahead(self) -> int:
        """Steps to order beyond the next one of a free run; none where the edge's next draft would end the run."""
        if self.collaborative and self._run_kind is not _RunKind.EDGE:
            return 0
        return min(MAX_AHEAD, self._run_until - len(self._committed))

    def _stamps(self) -> tuple[int, ...]:
        """Take the arrival times that the next verdict reports; see `Verdict.stamps`."""
        arrivals = tuple(self._arrivals)
        self._arrivals.clear()
        if not arrivals:
            return ()
        return arrivals[0] % STAMP_PERIOD_US, *(later - at for at, later in itertools.pairwise(arrivals))

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def _send(self, message: Verdict | Event | End | Failed) -> None:
        """Send a message, if there is a link, and keep it for the next link."""
        if isinstance(message, Failed):
            self._failed = message
        else:
            self._unacked.append(message)
            self._unacked_bytes += _payload_bytes(message)
        if self._suspended_since is None:
            self._outputs.append(message)

    def _acknowledged(self, seq: int) -> None:
        self._acked = max(self._acked, seq)
        while self._unacked and self._unacked[0].seq <= seq:
            self._unacked_bytes -= _payload_bytes(self._unacked.popleft())

    def _end(self, last: End | Failed) -> None:
        self.ended = True
        self._send(last)


def _replayed(message: Verdict | Event | End, channel: int) -> Verdict | Event | End:
    """A message for another link, on which the messages of the edge are counted anew."""
    if isinstance(message, Verdict):
        return msgspec.structs.replace(message, channel=channel, heard=0, stamps=())
    return msgspec.structs.replace(message, channel=channel)


def _microseconds(now: float) -> int:
    return int(now * 1e6)


def _payload_bytes(message: Verdict | Event | End) -> int:
    return len(message.payload) if isinstance(message, Event) else 0
