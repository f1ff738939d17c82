"""Ours in virtual time: discrete events over the real session objects of both ends.

What the edge agent and the gateway run (`EdgeSession`, `GatewaySession`, trigger, batcher) runs here, message by
message and in real encoded sizes; only the things around it are made up: the drafter is a `Script` and a floor per
token, the target a time per step, the link a rate and a delay; the client takes everything at once.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from msgspec.structs import replace

from bench.fixed_policies import fixed
from bench.link.virtual import Link
from bench.proving.simulator.figures import Figures
from bench.proving.simulator.scenario import PROMPT_BYTES, TCP_IP, Scenario
from bench.proving.simulator.script import Script
from bench.proving.simulator.timeline import Timeline
from pipesd_agent.control.triggers import DualSettings, TriggerSettings
from pipesd_agent.link.connection import SOCKET_BUFFER_BYTES
from pipesd_agent.session.actions import Commit, Complete, Deliver, Fail, StartDrafting
from pipesd_agent.session.policies import Policies
from pipesd_agent.session.session import EdgeSession
from pipesd_agent.session.settings import SessionSettings
from pipesd_core.engine.interface import Opening, Payload, StepDone
from pipesd_core.protocol.messages import VERSION, Draft, EdgeMessage, Endpoint, Open, Verdict, encode
from pipesd_core.sampling.params import SamplingParams
from pipesd_gateway.limits import SessionLimits
from pipesd_gateway.orders import Abort, Step
from pipesd_gateway.session import GatewaySession

CHUNK_BYTES: Final = 220
TOKEN_TEXT_BYTES: Final = 4
"""Of an SSE chunk of chat completions, and of the text of a token in it."""
MAX_DRAFTS: Final = 61
"""Drafts that a step verifies at most: the embedded engine's default."""
FOREVER_CONTEXT: Final = 10**6


@dataclass(frozen=True)
class Ours:
    """The agent's settings. drafts: False is cloud-only. padding: bytes that travel with each drafted token besides
    (the paper's payload, for comparison only)."""

    trigger: TriggerSettings = field(default_factory=DualSettings)
    session: SessionSettings = field(default_factory=SessionSettings)
    batcher: str = "immediate"
    drafts: bool = True
    padding: int = 0


class Simulation:
    """One answer. `start` places it on a varying link. timeline: filled in, if there is one.
    policies: instead of the trigger and the batcher of `ours`, which nothing changes. room_at: of `LinkSettings`."""

    def __init__(
        self,
        script: Script,
        ours: Ours,
        scenario: Scenario,
        start: float = 0.0,
        timeline: Timeline | None = None,
        policies: Policies | None = None,
        room_at: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.now = start
        self.figures = Figures(answers=1, tokens=len(script))
        self._script = script
        self._ours = ours
        self._scenario = scenario
        self._start = start
        self._timeline = timeline
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._numbers = itertools.count()
        self._up = Link(scenario.up, scenario.delay_s)
        self._down = Link(scenario.down, scenario.delay_s)
        self._up.free_at = self._down.free_at = start
        self._room_at = room_at
        self._room_awaited = False
        self._gateway: GatewaySession | None = None
        policies = policies or fixed(ours.trigger, ours.batcher)()
        script.check_trigger(policies.trigger)
        body = script.body or bytes(script.prompt_length * PROMPT_BYTES)
        self._edge = EdgeSession(
            Open(0, VERSION, Endpoint.CHAT_COMPLETIONS, body, b"" if ours.drafts else None),
            policies,
            ours.session,
            max_context=FOREVER_CONTEXT,
            now=start,
        )
        # The drafter's lane, as drafting/worker.py keeps it: its path is all right, or right up to `_agreed`.
        self._agreed = self._length = self._committed = self._limit = 0
        self._commits = 0
        self._version = 0
        self._forward: int | None = None
        """Version of the path that a forward is under way for."""
        self._forward_number = 0
        self._fed = self._feeding = -1
        """Output tokens that the drafter has computed, and will have after the forward under way; -1: not even the
        prompt's last."""
        self._behind = False
        """Does the forward under way compute more than the last token of the path?"""
        self._forward_began = start
        self._ended_by_eos = False
        self._told = -1
        """Version of the path of which the session was told that the drafter has nothing to propose."""

    def run(self) -> Figures:
        """Until the client has everything."""
        self._pull()
        while not self._edge.ended:
            self.now, _, handle, what = heapq.heappop(self._events)
            due = self._edge.deadline()
            if due is not None and self.now >= due:
                self._edge.tick(self.now)
            handle(what)
            self._act()
        self._edge.observer.ended(self.now)
        figures, counts = self.figures, self._edge.counts
        figures.seconds = self.now - self._start
        figures.navs, figures.forwards = counts.verifications, counts.forwards
        figures.drafted, figures.sent, figures.accepted = counts.drafted, counts.sent, counts.accepted
        figures.rollbacks = counts.discards
        return figures

    def _at(self, time: float, handle: Callable[[Any], None], what: Any = None) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), handle, what))

    # The edge.

    def _act(self) -> None:
        for action in self._edge.take_actions():
            match action:
                case StartDrafting():
                    self._committed = self._length = len(action.prompt_ids) - self._script.prompt_length
                    self._agreed = self._length
                case Commit():
                    self._commit(action)
                case Deliver():
                    self._edge.taken(action.seq, self.now)
                case Fail():
                    raise action.error
                case Complete():
                    break
        self._pull()
        self._begin_forward()

    def _pull(self) -> None:
        """Send as the agent's link does: only while few bytes are unsent."""
        if self._room_awaited:
            return
        while (room := max(self._up.room_at(SOCKET_BUFFER_BYTES), self._room_at())) <= self.now:
            message = self._edge.next_message(self.now)
            if message is None:
                return
            size = len(encode(message)) + self._scenario.overhead_up
            if isinstance(message, Draft):
                size += self._ours.padding * len(message.ids)
            self.figures.messages += 1
            self.figures.bytes_up += size
            arrives = self._up.send(self.now, size)
            self._edge.observer.sent(message, size - min(TCP_IP, self._scenario.overhead_up), self.now)
            if self._timeline:
                sent_at = arrives - self._scenario.delay_s
                tokens = len(message.ids) if isinstance(message, Draft) else 0
                self._timeline.add("sending", sent_at - 8 * size / self._scenario.up.at(sent_at), sent_at, tokens)
            self._at(arrives, self._arrived_up, message)
        self._room_awaited = True
        self._at(room, self._room)

    def _room(self, _: None) -> None:
        self._room_awaited = False

    def _arrived_down(self, message: Any) -> None:
        if isinstance(message, Verdict):
            self.figures.ttft = self.figures.ttft or self.now - self._start
        self._edge.receive(message, self.now)

    # The drafter.

    def _commit(self, commit: Commit) -> None:
        self._commits += 1
        self._limit = commit.limit - self._script.prompt_length
        end = self._committed = self._committed + len(commit.tokens)
        if min(self._length, self._agreed) >= end:
            return
        contradicted = self._length > self._agreed
        self._fed, self._feeding = min(self._fed, self._agreed), min(self._feeding, self._agreed)
        self._length = self._agreed = end
        self._version += 1
        self._ended_by_eos = False
        if self._forward is not None and (contradicted or not self._behind):
            if self._timeline:
                self._timeline.add("drafting", self._forward_began, self.now, 1, useful=False)
            self._forward = None

    def _begin_forward(self) -> None:
        if self._forward is not None or self._length >= self._limit or self._ended_by_eos:
            return
        if self._script.draft(self._agreed, self._length) is None:
            if self._script.exhausted(self._agreed, self._length) and self._told != self._version:
                self._told = self._version
                self._edge.drafted(self._commits, None, self.now)
                self._pull()
            return
        self._forward = self._version
        self._behind = self._fed < self._length - 1
        self._feeding = self._length
        self._forward_number += 1
        self._forward_began = self.now
        self._at(self.now + self._scenario.draft_s, self._drafted, self._forward_number)

    def _drafted(self, number: int) -> None:
        version = self._forward
        if version is None or number != self._forward_number:
            return
        self._forward = None
        self._fed = self._feeding
        if version != self._version or self._length >= self._limit:
            self._draft_done(useful=False)
            return
        token = self._script.draft(self._agreed, self._length)
        assert token is not None
        if self._agreed == self._length and self._script.right[self._length]:
            self._agreed += 1
        self._length += 1
        self._version += 1
        self._draft_done(useful=self._agreed == self._length)
        self._ended_by_eos = token.token in self._script.eos
        self._edge.drafted(self._commits, replace(token, seconds=self._scenario.draft_s), self.now)

    def _draft_done(self, *, useful: bool) -> None:
        if self._timeline:
            self._timeline.add("drafting", self._forward_began, self.now, 1, useful=useful)

    # The gateway and its target.

    def _arrived_up(self, message: EdgeMessage) -> None:
        if isinstance(message, Open):
            self._open(message)
        else:
            assert self._gateway is not None
            self._gateway.receive(message, self.now)  # type: ignore[arg-type]
        self._gateway_acts()

    def _open(self, message: Open) -> None:
        script = self._script
        prompt = (0,) * script.prompt_length
        params = SamplingParams(temperature=script.temperature, seed=1)
        self._gateway = GatewaySession(
            0,
            bytes(16),
            Opening(prompt, params, len(script), tuple(script.eos), "m"),
            collaborative=self._ours.drafts,
            n_vocab=2**31,
            max_drafts=MAX_DRAFTS,
            limits=SessionLimits(),
            now=self.now,
            free_start=message.free_start,
        )

    def _gateway_acts(self) -> None:
        assert self._gateway is not None
        for output in self._gateway.take_outputs():
            match output:
                case Step():
                    self._begin_step(output)
                case Abort():
                    raise AssertionError("nobody leaves here")
                case _:
                    size = len(encode(output)) + self._scenario.overhead_down
                    self.figures.bytes_down += size
                    self._at(self._down.send(self.now, size), self._arrived_down, output)

    def _begin_step(self, step: Step) -> None:
        at = self.now + self._scenario.queue_s
        for drafts in (step.drafts, *((),) * step.ahead):
            forward = self._scenario.forward.seconds(len(drafts) + 1)
            self.figures.busy_s += forward
            at += forward
            if self._timeline:
                self._timeline.add("verifying", at - forward, at, len(drafts))
            self._at(at, self._stepped, (drafts, forward))

    def _stepped(self, step: tuple[tuple[int, ...], float]) -> None:
        drafts, forward = step
        gateway, truth = self._gateway, self._script.truth
        assert gateway is not None
        at = len(gateway.committed) - self._script.prompt_length
        if at >= len(truth):
            return  # ordered ahead, past the end
        accepted = 0
        for draft, right in zip(drafts, truth[at:], strict=False):
            if draft != right:
                break
            accepted += 1
        tokens = tuple(truth[at : at + accepted + 1])
        ends = at + len(tokens) == len(truth)
        queue_us = int(self._scenario.queue_s * 1e6)
        self.figures.verified += len(drafts)
        self.figures.full += accepted == len(drafts) > 0
        gateway.step_done(StepDone(tokens, len(drafts), accepted, queue_us, int(forward * 1e6), ends=ends), self.now)
        gateway.payload(Payload(bytes(CHUNK_BYTES + TOKEN_TEXT_BYTES * len(tokens)), at + len(tokens)))
        if ends:
            gateway.finished()
        self._gateway_acts()
