"""One agent's WebSocket: carries messages between the socket, the `GatewayConnection` and the engine's generations."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from pipesd_core.engine.interface import (
    Broken,
    Engine,
    EngineOutput,
    Finished,
    Generation,
    Opening,
    Payload,
    StepDone,
    Working,
)
from pipesd_core.errors import ApiError, ContextLengthExceeded, EngineFailed
from pipesd_core.protocol.messages import MAX_FRAME_BYTES, MAX_UNACKED, Open, Rejected, encode
from pipesd_core.protocol.websocket import (
    CLOSE_INTERNAL_ERROR,
    CLOSE_PROTOCOL_ERROR,
    CLOSE_RESTARTING,
    CLOSE_SUPERSEDED,
    CLOSE_TOO_SLOW,
    GOODBYES,
)
from pipesd_core.service.logs import request_id, session_name
from pipesd_gateway.connection import (
    AbortRequest,
    AdoptRequest,
    CancelRequest,
    GatewayConnection,
    Hangup,
    StartRequest,
    StepRequest,
)
from pipesd_gateway.limits import SessionLimits
from pipesd_gateway.quota import Share
from pipesd_gateway.registry import Registry
from pipesd_gateway.session import MAX_AHEAD, GatewaySession

log = logging.getLogger(__name__)

MAX_SESSIONS: Final = 64
MAX_OUTBOX: Final = MAX_SESSIONS * (MAX_UNACKED + 2 * (MAX_AHEAD + 1) + 16)
"""Most messages that wait for one agent's socket. Sessions alone cannot exceed it; an agent that opens session after
session and never reads can."""
MAX_OUTBOX_BYTES: Final = 64 * 2**20
"""Most bytes of these messages: long prompts go back to the agent as ids."""
MAX_OPENED_BYTES: Final = MAX_FRAME_BYTES - 1024
"""Most bytes of a request that `Opened` sends back, its prompt as ids above all: a larger frame would end the agent's
link."""
FAREWELL_S: Final = 5.0
"""After a hang-up: time for the agent to take what is left for it."""
_ID_BYTES: Final = 5
"""Most bytes of a token id on the wire."""


def _too_long(opening: Opening) -> ApiError | None:
    size = _ID_BYTES * len(opening.prompt_ids) + sum(len(stop.encode()) for stop in opening.stop)
    size += len(opening.ignored)
    if size <= MAX_OPENED_BYTES:
        return None
    return ContextLengthExceeded(
        f"the prompt has {len(opening.prompt_ids)} tokens and, with its stop strings, may take {size} bytes in a "
        f"message to the agent; the limit is {MAX_OPENED_BYTES}: shorten the prompt, or ask the gateway's own /v1 API",
    )


class HostedRequest:
    """A request in the engine, and the socket and channel that its session is on now.

    wants_progress: its agent takes `Progress`.
    """

    def __init__(self, socket: AgentSocket, channel: int, *, wants_progress: bool) -> None:
        self.socket = socket
        self.channel = channel
        self._wants_progress = wants_progress
        self.session_id = b""
        self.generation: Generation

    def lost_before(self, moment: float) -> bool:
        """Whether the link was lost before `moment` (monotonic) and has not come back."""
        session = self.socket.session(self.channel)
        return session is not None and session.suspended_since is not None and session.suspended_since < moment

    def deliver(self, output: EngineOutput) -> None:
        """Pass an output of the engine on to the session. The engine calls this."""
        if self._wants_progress or not isinstance(output, Working):
            self.socket.deliver(self.channel, output)


class AgentSocket:
    """One connected agent: owns the tasks and generations of its sessions.

    When the agent leaves, its tasks end; the generations stay until another socket takes them over, or the grace time
    is over: a timer, and no task, sees to that.

    Args:
        admit: called for each new session. Raises ApiError if it may not begin.
        hosted: of all sockets, by session id.
    """

    def __init__(
        self,
        websocket: WebSocket,
        engine: Engine,
        limits: SessionLimits,
        share: Share,
        admit: Callable[[WebSocket], None],
        registry: Registry,
        hosted: dict[bytes, HostedRequest],
    ) -> None:
        self._websocket = websocket
        self._engine = engine
        self._admit = admit
        self._connection = GatewayConnection(engine.info, limits, share, registry, max_sessions=MAX_SESSIONS)
        self._loop = asyncio.get_running_loop()
        self._all_hosted = hosted
        self._hosted: dict[int, HostedRequest] = {}
        self._openings: dict[int, asyncio.Task[None]] = {}
        self._opening_tasks: set[asyncio.Task[None]] = set()
        """The tasks of `_openings`, and cancelled ones that are not done yet."""
        self._reader: asyncio.Task[None] | None = None
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        self._outbox_filled = asyncio.Event()
        self._hangup: int | None = None
        self._left = False
        self._gone = False
        self._timer: asyncio.TimerHandle | None = None

    async def serve(self) -> None:
        """Serve until the agent leaves or breaks the protocol."""
        writer = asyncio.create_task(self._write())
        reader = self._reader = asyncio.create_task(self._read())
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._gone = True
            self._end_sessions()
            if self._hangup is not None:
                await asyncio.wait((writer,), timeout=FAREWELL_S)
            tasks = [reader, writer, *self._opening_tasks]
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception) and not isinstance(result, WebSocketDisconnect):
                    log.error("agent connection failed", exc_info=result)

    def session(self, channel: int) -> GatewaySession | None:
        """The running session of a channel."""
        return self._connection.session(channel)

    def drain(self, deadline_s: float) -> None:
        """Tell the agent that the server is about to end."""
        self._connection.drain(deadline_s)
        self._pump()

    def restart(self) -> None:
        """The server ends: hang up. The sessions are over, and their agent has not been told that they failed."""
        self._hang_up(CLOSE_RESTARTING)
        self._connection.disconnected(time.monotonic(), for_good=True)
        self._pump()

    async def _read(self) -> None:
        while self._hangup is None:  # `cancel` alone does not stop a task that finds the next frame waiting each time
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                self._left = message.get("code") in GOODBYES
                return
            frame: bytes | None = message.get("bytes")
            self._connection.receive(message["text"] if frame is None else frame, time.monotonic())
            self._pump()
            await asyncio.sleep(0)  # thousands of frames may be waiting: other agents have their turn between them

    async def _write(self) -> None:
        while True:
            await self._outbox_filled.wait()
            while self._outbox:
                frame = self._outbox.popleft()
                self._outbox_bytes -= len(frame)
                await self._websocket.send_bytes(frame)
            if self._hangup is not None:
                if self._websocket.application_state is WebSocketState.CONNECTED:
                    await self._websocket.close(self._hangup)
                return
            self._outbox_filled.clear()

    def _pump(self) -> None:
        """Carry out the outputs of the connection, in order. To be called after every call of its methods."""
        for output in self._connection.take_outputs():
            match output:
                case StartRequest(request):
                    task = self._openings[request.channel] = asyncio.create_task(self._open(request))
                    self._opening_tasks.add(task)
                    task.add_done_callback(self._opening_done)
                case CancelRequest(channel):
                    self._openings.pop(channel).cancel()
                case StepRequest(channel, drafts, ahead):
                    self._hosted[channel].generation.step(drafts, ahead)
                case AbortRequest(channel):
                    self._let_go(channel).generation.abort()
                case AdoptRequest(channel, session_id):
                    self._adopt(channel, self._all_hosted[session_id])
                case Hangup(superseded):
                    self._hang_up(CLOSE_SUPERSEDED if superseded else CLOSE_PROTOCOL_ERROR)
                case _:
                    if isinstance(output, Rejected):
                        log.warning("agent connection refused: %s", output.message)
                    self._outbox.append(encode(output))
                    self._outbox_bytes += len(self._outbox[-1])
                    self._outbox_filled.set()
        if len(self._outbox) > MAX_OUTBOX or self._outbox_bytes > MAX_OUTBOX_BYTES:
            self._outbox.clear()
            self._outbox_bytes = 0
            self._hang_up(CLOSE_TOO_SLOW)
        self._rearm()

    def _adopt(self, channel: int, hosted: HostedRequest) -> None:
        before, hosted.socket = hosted.socket, self
        del before._hosted[hosted.channel]
        hosted.channel = channel
        self._hosted[channel] = hosted
        before._pump()

    def _let_go(self, channel: int) -> HostedRequest:
        hosted = self._hosted.pop(channel)
        del self._all_hosted[hosted.session_id]
        return hosted

    def _hang_up(self, code: int) -> None:
        """Send what is left, then close; nothing more is read, and every session is lost."""
        if self._hangup is None:
            self._hangup = code
            self._outbox_filled.set()
            if self._reader is not None:
                self._reader.cancel()

    def _rearm(self) -> None:
        due = self._connection.deadline()
        if self._timer is not None:
            self._timer.cancel()
        delay = None if due is None else max(0.0, due - time.monotonic())
        self._timer = None if delay is None else self._loop.call_later(delay, self._tick)

    def _tick(self) -> None:
        try:
            self._connection.tick(time.monotonic())
            self._pump()
        except Exception:
            self._failed("a timer")

    async def _open(self, request: Open) -> None:
        channel = request.channel
        request_id.set(request.request_id)
        answer: Generation | ApiError
        hosted = HostedRequest(self, channel, wants_progress=request.progress)
        try:
            self._admit(self._websocket)
            answer = await self._engine.open(request.endpoint, request.body, hosted.deliver)
            if (too_long := _too_long(answer.opening)) is not None:
                answer.abort()
                answer = too_long
        except ApiError as error:
            answer = error
        except Exception:
            # A bug of the engine; its client is told, and the agent's other sessions go on.
            log.exception("request %s failed to open in the engine", request.request_id)
            answer = EngineFailed("internal error; see the gateway's log")
        if self._openings.get(channel) is not asyncio.current_task():
            # Cancelled too late for the engine to notice; the channel may have its next request already.
            if not isinstance(answer, ApiError):
                answer.abort()
            return
        del self._openings[channel]
        if isinstance(answer, ApiError):
            log.info("request %s refused: %d %s", request.request_id, answer.status, answer.code or answer.type)
            self._connection.refused(channel, answer)
        else:
            hosted.generation = answer
            hosted.session_id = self._connection.accepted(channel, answer.opening, time.monotonic())
            self._hosted[channel] = self._all_hosted[hosted.session_id] = hosted
            name = session_name(hosted.session_id)
            log.info("request %s is session %s", request.request_id, name, extra={"session": name})
        self._pump()

    def _opening_done(self, task: asyncio.Task[None]) -> None:
        self._opening_tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("agent connection failed", exc_info=error)
            self._hang_up(CLOSE_INTERNAL_ERROR)

    def _failed(self, what: str) -> None:
        """A bug, while an exception is handled: its sessions would hang, so the link ends, and they with it."""
        log.exception("agent connection failed in %s", what)
        self._hang_up(CLOSE_INTERNAL_ERROR)
        if self._gone:
            self._end_sessions()

    def _end_sessions(self) -> None:
        for_good = self._left or self._hangup not in (None, CLOSE_SUPERSEDED)
        try:
            self._connection.disconnected(time.monotonic(), for_good=for_good)
            self._pump()
        except Exception:
            log.exception("the sessions of an agent could not be ended")

    def deliver(self, channel: int, output: EngineOutput) -> None:
        """Take an output of the engine for a session."""
        session = self._connection.session(channel)
        if session is None:
            return
        try:
            match output:
                case StepDone():
                    session.step_done(output, time.monotonic())
                case Payload():
                    session.payload(output)
                case Working():
                    self._connection.working(channel)
                case Finished():
                    self._let_go(channel)
                    session.finished()
                case Broken(error):
                    self._let_go(channel)
                    session.broken(error)
            self._connection.collect(channel)
            self._pump()
        except Exception:
            self._failed("an output of the engine")
