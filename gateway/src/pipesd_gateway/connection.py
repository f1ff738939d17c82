"""The gateway's side of one agent's WebSocket, sans-I/O: frames in, typed orders out.

It names sessions by the edge's channels, refuses what does not fit (typed errors: one session's fault ends that
session, only an unattributable one ends the connection) and leaves sockets, engine and clock to `agent_socket`.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator

from msgspec import Struct

from pipesd_core.engine.interface import ModelInfo, Opening
from pipesd_core.errors import (
    ApiError,
    MalformedMessage,
    OutOfState,
    Overloaded,
    ProtocolError,
    SessionUnknown,
    UnknownVersion,
    VocabularyMismatch,
)
from pipesd_core.protocol.messages import (
    VERSION,
    Ack,
    Close,
    Draft,
    Draining,
    End,
    GatewayMessage,
    Open,
    Progress,
    Rejected,
    Resume,
    Run,
    decode_edge,
)
from pipesd_gateway.limits import SessionLimits
from pipesd_gateway.orders import Abort, Step
from pipesd_gateway.quota import Share
from pipesd_gateway.registry import Registry
from pipesd_gateway.session import GatewaySession, failed


class StartRequest(Struct, frozen=True):
    """Order: ask the engine to accept this request, then call `accepted` or `refused`."""

    open: Open


class CancelRequest(Struct, frozen=True):
    """Order: the request that is waiting for the engine is no longer wanted."""

    channel: int


class StepRequest(Struct, frozen=True):
    """Order: steps of the session, see `Generation.step`."""

    channel: int
    drafts: tuple[int, ...]
    ahead: int = 0


class AbortRequest(Struct, frozen=True):
    """Order: the engine lets go of the session's request."""

    channel: int


class AdoptRequest(Struct, frozen=True):
    """Order: the engine's request of this session belongs to this connection now, under this channel."""

    channel: int
    session_id: bytes


class Hangup(Struct, frozen=True):
    """Order: close the WebSocket. superseded: the agent is on a newer one; no fault of this one."""

    superseded: bool = False


Order = StartRequest | CancelRequest | StepRequest | AbortRequest | AdoptRequest | Hangup
Output = GatewayMessage | Order


class GatewayConnection:
    """All sessions of one agent's WebSocket; also after it is gone, until they are resumed on another or given up.

    After every call of a method that takes a time or an engine's answer, carry out `take_outputs`, in order; call
    `tick` at `deadline`. After a call on a session, call `collect` first.

    Args:
        info: of the target model.
        limits: of each session.
        share: of the sessions that the agent's API key may have; each one here is taken from it until it ends.
        registry: of the server's sessions; without one, none can be resumed on another connection.
        max_sessions: on this connection, waiting ones included; and of ended ones, that are kept to be resumed.
    """

    def __init__(
        self,
        info: ModelInfo,
        limits: SessionLimits,
        share: Share,
        registry: Registry | None = None,
        *,
        max_sessions: int = 64,
    ) -> None:
        self._info = info
        self._limits = limits
        self._share = share
        self._registry = Registry() if registry is None else registry
        self.number = self._registry.number()
        self._max_sessions = max_sessions
        self._waiting: dict[int, tuple[Open, float]] = {}
        """Requests by channel, each with the time of its arrival."""
        self._sessions: dict[int, GatewaySession] = {}
        self._ended: dict[int, GatewaySession] = {}
        """Ended sessions whose last messages may be lost. The channel's next request shows that they were not."""
        self._known: set[int] = set()
        """Channels that have been used: late messages for an ended session are no fault."""
        self._lost = False
        self._at_fault = False
        self._outputs: list[Output] = []

    def take_outputs(self) -> list[Output]:
        """Messages to send and orders to carry out, in order."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def deadline(self) -> float | None:
        """The time at which `tick` has to be called at the latest; None: never."""
        due = [d for session in self._all() if (d := session.deadline()) is not None]
        return min(due, default=None)

    def session(self, channel: int) -> GatewaySession | None:
        """The running session of a channel."""
        return self._sessions.get(channel)

    @property
    def channels(self) -> int:
        """Sessions running or waiting for the engine."""
        return len(self._sessions) + len(self._waiting)

    def receive(self, frame: bytes | str, now: float) -> None:
        """Take a frame from the agent; a text frame (str) is a fault. Never raises, whatever it holds."""
        try:
            if isinstance(frame, str):
                raise MalformedMessage("a text frame; pipesd.v1 has binary frames only")
            message = decode_edge(frame)
            match message:
                case Open():
                    self._open(message, now)
                case Resume():
                    self._resume(message, now)
                case _:
                    self._dispatch(message, now)
        except ProtocolError as error:
            self._at_fault = True
            self._outputs.append(Rejected(error.code, str(error)))
            self._outputs.append(Hangup())

    def accepted(self, channel: int, opening: Opening, now: float) -> bytes:
        """Begin the session whose request (`StartRequest`) the engine took. Returns the session's id."""
        request, asked = self._waiting.pop(channel)
        session = self._sessions[channel] = GatewaySession(
            channel,
            secrets.token_bytes(16),
            opening,
            collaborative=request.fingerprint is not None,
            n_vocab=self._info.n_vocab,
            max_drafts=self._info.max_drafts,
            limits=self._limits,
            now=now,
            asked=asked,
            free_start=request.free_start,
        )
        self._registry.put(session, self._share.owner, self)
        self._collect(channel)
        return session.session_id

    def refused(self, channel: int, error: ApiError) -> None:
        """Report that the engine did not take the request of `StartRequest`."""
        self._forget_waiting(channel)
        self._outputs.append(failed(channel, error))

    def collect(self, channel: int) -> None:
        """Move a session's outputs here, after a call of `GatewaySession.step_done` and the like."""
        if channel in self._sessions:
            self._collect(channel)

    def tick(self, now: float) -> None:
        """Advance the clock: carry out what is due."""
        for channel, session in list(self._sessions.items()):
            session.tick(now)
            self._collect(channel)
        for channel, session in list(self._ended.items()):
            session.tick(now)
            if session.gone:
                self._forget_ended(channel)

    def drain(self, deadline_s: float) -> None:
        """Announce that the gateway ends when nothing runs any more, or after `deadline_s` seconds."""
        self._outputs.append(Draining(math.ceil(max(0.0, deadline_s))))

    def disconnected(self, now: float, *, for_good: bool = False) -> None:
        """The WebSocket is gone. What waits for the engine is cancelled; what runs can be resumed on another one for
        the grace time, unless the link ended by the agent's fault (or `for_good`)."""
        self._lost = True
        for channel in list(self._waiting):
            self._forget_waiting(channel)
            self._outputs.append(CancelRequest(channel))
        for session in list(self._all()):
            if for_good or self._at_fault:
                session.link_lost()
            else:
                session.suspended(now)
        for channel in list(self._sessions):
            self._collect(channel)
        for channel, session in list(self._ended.items()):
            if session.gone:
                self._forget_ended(channel)

    def surrender(self, session: GatewaySession) -> None:
        """Give a session to another connection; see `registry.Holder`."""
        if self._ended.get(session.channel) is session:
            del self._ended[session.channel]
            return
        del self._sessions[session.channel]
        if not self._lost:
            self._outputs.append(Hangup(superseded=True))

    def _open(self, message: Open, now: float) -> None:
        channel = message.channel
        if message.version != VERSION:
            raise UnknownVersion(
                f"this gateway speaks pipesd version {VERSION}, the agent sent {message.version}: "
                "install matching versions of pipesd-agent and pipesd-gateway"
            )
        if channel in self._sessions or channel in self._waiting:
            raise OutOfState(f"open on channel {channel}, which is in use")
        self._known.add(channel)
        self._forget_ended(channel)
        if self.channels >= self._max_sessions:
            self._outputs.append(failed(channel, self._full()))
        elif message.fingerprint and message.fingerprint != self._info.fingerprint:
            mismatch = VocabularyMismatch(
                f"the draft model's vocabulary ({message.fingerprint.hex()}) is not that of the target "
                f"{self._info.name!r} ({self._info.fingerprint.hex()}): use a draft model of the same family, "
                "or start the agent with --mode cloud"
            )
            self._outputs.append(failed(channel, mismatch))
        else:
            try:
                self._share.acquire()
            except Overloaded as refusal:
                self._outputs.append(failed(channel, refusal))
                return
            self._waiting[channel] = message, now
            self._outputs.append(StartRequest(message))

    def _resume(self, message: Resume, now: float) -> None:
        channel = message.channel
        if channel in self._sessions or channel in self._waiting:
            raise OutOfState(f"resume on channel {channel}, which is in use")
        location = self._registry.find(message.session, self._share.owner)
        if location is not None and location.holder is self:
            raise OutOfState(f"resume on channel {channel} of a session that is on channel {location.session.channel}")
        self._known.add(channel)
        self._forget_ended(channel)
        # A link that the agent has left may still deliver an old message.
        late = location is not None and location.holder.number > self.number
        if location is None or late or not location.session.can_resume(message.seq):
            unknown = SessionUnknown(
                "there is no such session to go on with: it ended longer ago than the grace time, or this gateway "
                "never had it; open the request again"
            )
            self._outputs.append(failed(channel, unknown))
            return
        if self.channels >= self._max_sessions:
            self._outputs.append(failed(channel, self._full()))
            return
        session = location.session
        location.holder.surrender(session)
        self._registry.put(session, self._share.owner, self)
        if session.ended:
            self._keep_ended(channel, session)
        else:
            self._sessions[channel] = session
            self._outputs.append(AdoptRequest(channel, session.session_id))
        session.resumed(channel, message.seq, now)
        self._move_outputs(session)

    def working(self, channel: int) -> None:
        """Tell the edge that the step of a session is still to come, and the engine at work; afterwards `collect`."""
        session = self._sessions.get(channel)
        if session is not None and session.suspended_since is None:
            self._outputs.append(Progress(channel))

    def _full(self) -> Overloaded:
        return Overloaded(
            f"{self.channels} sessions are open on this connection; the limit is {self._max_sessions}",
            retry_after_s=self._share.wait_s,
        )

    def _dispatch(self, message: Draft | Run | Ack | Close, now: float) -> None:
        channel = message.channel
        if channel in self._waiting:
            if not isinstance(message, Close):
                raise OutOfState(f"{type(message).__name__} on channel {channel} before it was opened")
            self._forget_waiting(channel)
            self._outputs += [CancelRequest(channel), End(channel, 1)]
            return
        session = self._sessions.get(channel)
        if session is None:
            if channel not in self._known:
                raise OutOfState(f"{type(message).__name__} on channel {channel}, which was never opened")
            return  # sent before the end of the session reached the edge
        try:
            session.receive(message, now)
        except ProtocolError as error:
            session.protocol_failure(error)
        self._collect(channel)

    def _collect(self, channel: int) -> None:
        session = self._sessions[channel]
        self._move_outputs(session)
        if session.ended:
            del self._sessions[channel]
            self._share.release()
            if session.gone:
                self._registry.drop(session)
            else:
                self._keep_ended(channel, session)

    def _move_outputs(self, session: GatewaySession) -> None:
        channel = session.channel
        for output in session.take_outputs():
            match output:
                case Step(drafts, ahead):
                    self._outputs.append(StepRequest(channel, drafts, ahead))
                case Abort():
                    self._outputs.append(AbortRequest(channel))
                case _:
                    self._outputs.append(output)

    def _all(self) -> Iterator[GatewaySession]:
        yield from self._sessions.values()
        yield from self._ended.values()

    def _keep_ended(self, channel: int, session: GatewaySession) -> None:
        while len(self._ended) >= self._max_sessions:
            self._forget_ended(next(iter(self._ended)))
        self._ended[channel] = session

    def _forget_ended(self, channel: int) -> None:
        if (session := self._ended.pop(channel, None)) is not None:
            self._registry.drop(session)

    def _forget_waiting(self, channel: int) -> None:
        del self._waiting[channel]
        self._share.release()
