"""The gateway's side of one agent's WebSocket, sans-I/O: frames in, typed orders out.

It names sessions by the edge's channels, refuses what does not fit (typed errors: one session's fault ends that
session, only an unattributable one ends the connection) and leaves sockets, engine and clock to `ws.py`.
"""

from __future__ import annotations

import secrets

from msgspec import Struct

from pipesd_gateway.engine import ModelInfo, Opening
from pipesd_gateway.exceptions import (
    ApiError,
    InvalidRequest,
    MalformedMessage,
    OutOfState,
    Overloaded,
    ProtocolError,
    UnknownVersion,
    VocabularyMismatch,
)
from pipesd_gateway.protocol import (
    VERSION,
    Ack,
    Close,
    Draft,
    End,
    Failed,
    GatewayMessage,
    Open,
    Rejected,
    Resume,
    Run,
    decode_edge,
)
from pipesd_gateway.quota import Share
from pipesd_gateway.session import Abort, GatewaySession, SessionLimits, Step, failed


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


class Hangup(Struct, frozen=True):
    """Order: close the WebSocket."""


Order = StartRequest | CancelRequest | StepRequest | AbortRequest | Hangup
Output = GatewayMessage | Order


class GatewayConnection:
    """All sessions of one agent.

    Args:
        info: of the target model.
        limits: of each session.
        share: of the sessions that the agent's API key may have; each one here is taken from it until it ends.
        max_sessions: on this connection, waiting ones included.
    """

    def __init__(self, info: ModelInfo, limits: SessionLimits, share: Share, *, max_sessions: int = 64) -> None:
        self._info = info
        self._limits = limits
        self._share = share
        self._max_sessions = max_sessions
        self._waiting: dict[int, Open] = {}
        self._sessions: dict[int, GatewaySession] = {}
        self._known: set[int] = set()
        """Channels that have been used: late messages for an ended session are no fault."""
        self._outputs: list[Output] = []

    def take_outputs(self) -> list[Output]:
        """Messages to send and orders to carry out, in order."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def deadline(self) -> float | None:
        """When `tick` has to be called at the latest."""
        due = [d for session in self._sessions.values() if (d := session.deadline()) is not None]
        return min(due, default=None)

    def session(self, channel: int) -> GatewaySession | None:
        """The running session of a channel."""
        return self._sessions.get(channel)

    @property
    def channels(self) -> int:
        """Sessions running or waiting for the engine."""
        return len(self._sessions) + len(self._waiting)

    def receive(self, frame: bytes | str, now: float) -> None:
        """A frame from the agent; a text frame (str) is a fault. Never raises, whatever it holds."""
        try:
            if isinstance(frame, str):
                raise MalformedMessage("a text frame; pipesd.v1 has binary frames only")
            message = decode_edge(frame)
            match message:
                case Open():
                    self._open(message)
                case Resume():
                    self._refuse_resume(message)
                case _:
                    self._dispatch(message, now)
        except ProtocolError as error:
            self._outputs.append(Rejected(error.code, str(error)))
            self._outputs.append(Hangup())

    def accepted(self, channel: int, opening: Opening, now: float) -> None:
        """The engine took the request of `StartRequest`."""
        request = self._waiting.pop(channel)
        self._sessions[channel] = GatewaySession(
            channel,
            secrets.token_bytes(16),
            opening,
            collaborative=request.fingerprint is not None,
            n_vocab=self._info.n_vocab,
            max_drafts=self._info.max_drafts,
            limits=self._limits,
            now=now,
        )
        self._collect(channel)

    def refused(self, channel: int, error: ApiError) -> None:
        """The engine did not take the request of `StartRequest`."""
        self._forget_waiting(channel)
        self._outputs.append(failed(channel, error))

    def collect(self, channel: int) -> None:
        """Move a session's outputs here after it was told what the engine did."""
        if channel in self._sessions:
            self._collect(channel)

    def tick(self, now: float) -> None:
        """The clock moved."""
        for channel, session in list(self._sessions.items()):
            session.tick(now)
            self._collect(channel)

    def disconnected(self) -> None:
        """The WebSocket is gone: every session goes with it, waiting ones too."""
        for channel in list(self._waiting):
            self._forget_waiting(channel)
            self._outputs.append(CancelRequest(channel))
        for channel, session in list(self._sessions.items()):
            session.disconnected()
            self._collect(channel)

    def _open(self, message: Open) -> None:
        channel = message.channel
        if message.version != VERSION:
            raise UnknownVersion(
                f"this gateway speaks pipesd version {VERSION}, the agent sent {message.version}: "
                "install matching versions of pipesd-agent and pipesd-gateway"
            )
        if channel in self._sessions or channel in self._waiting:
            raise OutOfState(f"open on channel {channel}, which is in use")
        self._known.add(channel)
        if self.channels >= self._max_sessions:
            refusal = Overloaded(
                f"{self.channels} sessions are open on this connection; the limit is {self._max_sessions}",
                retry_after_s=1,
            )
            self._outputs.append(failed(channel, refusal))
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
            self._waiting[channel] = message
            self._outputs.append(StartRequest(message))

    def _refuse_resume(self, message: Resume) -> None:
        if message.channel in self._sessions or message.channel in self._waiting:
            raise OutOfState(f"resume on channel {message.channel}, which is in use")
        self._known.add(message.channel)
        refusal = InvalidRequest("this gateway does not support resume: open the request again")
        answer = failed(message.channel, refusal)
        self._outputs.append(Failed(answer.channel, "resume_not_supported", answer.status, answer.body))

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
        for output in session.take_outputs():
            match output:
                case Step(drafts, ahead):
                    self._outputs.append(StepRequest(channel, drafts, ahead))
                case Abort():
                    self._outputs.append(AbortRequest(channel))
                case _:
                    self._outputs.append(output)
        if session.ended:
            del self._sessions[channel]
            self._share.release()

    def _forget_waiting(self, channel: int) -> None:
        del self._waiting[channel]
        self._share.release()
