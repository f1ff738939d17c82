"""Both ends of pipesd.v1 joined by a hostile pipe, with a made-up target and drafter: no sockets, threads or clocks."""

from __future__ import annotations

import random
from collections import deque

from pipesd_agent.batcher import make_batcher
from pipesd_agent.drafting.types import DraftToken
from pipesd_agent.session import (
    Commit,
    Complete,
    Deliver,
    EdgeSession,
    Fail,
    SessionSettings,
    StartDrafting,
    StopDrafting,
)
from pipesd_agent.trigger import TriggerSettings
from pipesd_gateway.connection import (
    AbortRequest,
    AdoptRequest,
    CancelRequest,
    GatewayConnection,
    Hangup,
    StartRequest,
    StepRequest,
)
from pipesd_gateway.engine import Finished, ModelInfo, Opening, Payload, StepDone
from pipesd_gateway.exceptions import ApiError, Unavailable
from pipesd_gateway.protocol import (
    FOREVER,
    MAX_UNACKED,
    VERSION,
    Draft,
    EdgeMessage,
    Endpoint,
    Open,
    Rejected,
    Run,
    decode_edge,
    decode_gateway,
    encode,
)
from pipesd_gateway.quota import Quota
from pipesd_gateway.sampling import SamplingParams
from pipesd_gateway.session import MAX_PATH, SessionLimits

N_VOCAB = 6
EOS = 5
PRINT = b"pipesd-test-vocab"
INFO = ModelInfo("toy", N_VOCAB, PRINT, max_context=4096, max_drafts=7)


def target_token(ids: list[int], seed: int) -> int:
    """The made-up target: any deterministic function of all ids will do; EOS is rare."""
    draw = random.Random(hash((seed, len(ids), *ids[-3:])))
    return EOS if draw.random() < 0.01 else draw.randrange(EOS)


class ToyEngine:
    """One generation of the made-up target, stepping only when the world says so."""

    def __init__(self, prompt: list[int], max_tokens: int, seed: int) -> None:
        self.ids = list(prompt)
        self.prompt_length = len(prompt)
        self.limit = len(prompt) + max_tokens
        self.seed = seed
        self.ordered: tuple[int, ...] | None = None
        self.ahead = 0
        self.aborted = False
        self.over = False

    def order(self, drafts: tuple[int, ...], ahead: int) -> None:
        assert self.ordered is None, "two steps of one session at once"
        assert not self.over, "a step after the end"
        assert not self.aborted, "a step after the abort"
        assert len(drafts) <= INFO.max_drafts
        self.ordered = drafts
        self.ahead = ahead

    def step(self) -> list[StepDone | Payload | Finished]:
        assert self.ordered is not None
        drafts, self.ordered = self.ordered, None
        tokens: list[int] = []
        accepted = 0
        for draft in (*drafts, None):
            token = target_token(self.ids, self.seed)
            self.ids.append(token)
            tokens.append(token)
            accepted += token == draft
            self.over = token == EOS or len(self.ids) >= self.limit
            if token != draft or self.over:
                break
        if self.ahead and not self.over:
            self.ahead -= 1
            self.ordered = ()
        text = bytes(tokens)
        done = StepDone(tuple(tokens), len(drafts), accepted, 0, 0, ends=self.over)
        outputs: list[StepDone | Payload | Finished] = [done, Payload(text, len(self.ids) - self.prompt_length)]
        return [*outputs, Finished()] if self.over else outputs


class ToyLane:
    """The drafter's lane, with the contract of `drafting.worker`: commits are applied, and tokens reported, late."""

    def __init__(self, prompt: list[int], seed: int, wrong: float, dry: float, rng: random.Random) -> None:
        self.path = list(prompt)
        self.committed = len(prompt)
        self.limit = 0
        self.applied = 0
        self.commits: deque[Commit] = deque()
        self.reports: deque[tuple[int, DraftToken | None]] = deque()
        self.version = 0
        self.nothing_at = -1
        self.seed, self.wrong, self.dry, self.rng = seed, wrong, dry, rng

    def apply(self) -> None:
        commit = self.commits.popleft()
        self.applied += 1
        for token in commit.tokens:
            if self.committed < len(self.path) and self.path[self.committed] != token:
                del self.path[self.committed :]
            if self.committed == len(self.path):
                self.path.append(token)
                self.version += 1
            self.committed += 1
        self.limit = commit.limit

    @property
    def can_draft(self) -> bool:
        ended = len(self.path) > self.committed and self.path[-1] == EOS
        return len(self.path) < self.limit and not ended and self.nothing_at != self.version

    def draft(self) -> None:
        if self.rng.random() < self.dry:
            self.nothing_at = self.version
            self.reports.append((self.applied, None))
            return
        token = target_token(self.path, self.seed)
        if self.rng.random() < self.wrong:
            token = self.rng.randrange(N_VOCAB)
        confidence = self.rng.random()
        self.reports.append((self.applied, DraftToken(len(self.path), token, confidence)))
        self.path.append(token)
        self.version += 1


class World:
    """One client's request, from both ends. Methods that move something return whether there was anything to move."""

    def __init__(
        self,
        seed: int,
        *,
        wrong: float = 0.3,
        dry: float = 0.0,
        max_tokens: int = 60,
        trigger: TriggerSettings | None = None,
        batcher: str = "immediate",
        window: int = 12,
        drafter_context: int = 10_000,
    ) -> None:
        self.rng = random.Random(seed)
        self.seed = seed
        self.wrong, self.dry = wrong, dry
        self.now = 1000.0
        self.prompt = [self.rng.randrange(EOS) for _ in range(5)]
        self.max_tokens = max_tokens
        self.truth = self._truth()
        self.gateway = GatewayConnection(INFO, SessionLimits(grace_s=0), Quota().share(None))
        self.edge = EdgeSession(
            0,
            (trigger or TriggerSettings()).make(),
            make_batcher(batcher),
            SessionSettings(window=window, nav_timeout_s=4, silence_timeout_s=10_000),
            collaborative=True,
            max_context=drafter_context,
            now=self.now,
        )
        self.up: deque[bytes] = deque()
        self.down: deque[bytes] = deque()
        self.engine: ToyEngine | None = None
        self.starting: Open | None = None
        self.lane: ToyLane | None = None
        self.untaken: deque[Deliver] = deque()
        self.text = b""
        self.complete = False
        self.error: ApiError | None = None
        self.connected = True
        self.hung_up = False
        self.up.append(encode(Open(0, VERSION, Endpoint.COMPLETIONS, b"{}", PRINT)))

    def _truth(self) -> bytes:
        ids = list(self.prompt)
        while len(ids) < len(self.prompt) + self.max_tokens and (len(ids) == len(self.prompt) or ids[-1] != EOS):
            ids.append(target_token(ids, self.seed))
        return bytes(ids[len(self.prompt) :])

    # Moves.

    def edge_sends(self) -> bool:
        message = self.edge.next_message(self.now)
        if message is not None:
            self.up.append(encode(message))
        return message is not None

    def deliver_up(self) -> bool:
        if self.up and self.connected and not self.hung_up:
            self.gateway.receive(self.up.popleft(), self.now)
            self._gateway_outputs()
            return True
        return False

    def deliver_down(self) -> bool:
        if self.down and self.connected:
            message = decode_gateway(self.down.popleft())
            assert not isinstance(message, Rejected), message
            self.edge.receive(message, self.now)
            self._edge_actions()
            return True
        return False

    def engine_starts(self) -> bool:
        if self.starting is None:
            return False
        self.starting = None
        self.engine = ToyEngine(self.prompt, self.max_tokens, self.seed)
        opening = Opening(tuple(self.prompt), SamplingParams(seed=self.seed), self.max_tokens, (EOS,), "toy")
        self.gateway.accepted(0, opening, self.now)
        self._gateway_outputs()
        return True

    def engine_steps(self) -> bool:
        if self.engine is None or self.engine.ordered is None or self.engine.aborted:
            return False
        for output in self.engine.step():
            session = self.gateway.session(0)
            assert session is not None
            match output:
                case StepDone():
                    session.step_done(output, self.now)
                case Payload():
                    session.payload(output)
                case Finished():
                    session.finished()
            self.gateway.collect(0)
            self._gateway_outputs()
        return True

    def lane_applies(self) -> bool:
        if self.lane is not None and self.lane.commits:
            self.lane.apply()
            return True
        return False

    def lane_drafts(self) -> bool:
        if self.lane is not None and self.lane.can_draft:
            self.lane.draft()
            return True
        return False

    def lane_reports(self) -> bool:
        if self.lane is not None and self.lane.reports:
            self.edge.drafted(*self.lane.reports.popleft())
            self._edge_actions()
            return True
        return False

    def client_takes(self) -> bool:
        if self.untaken:
            event = self.untaken.popleft()
            self.text += event.payload
            self.edge.taken(event.seq, self.now)
            return True
        return False

    def clock(self, seconds: float) -> None:
        self.now += seconds
        self.edge.tick(self.now)
        self._edge_actions()
        self.gateway.tick(self.now)
        self._gateway_outputs()

    # Faults.

    def lose_draft(self, index: int) -> None:
        drafts = self._drafts_under_way()
        if drafts:
            del self.up[drafts[index % len(drafts)]]

    def duplicate_draft(self, index: int, later: bool) -> None:
        drafts = self._drafts_under_way()
        if drafts:
            frame = self.up[drafts[index % len(drafts)]]
            if later:
                self.up.append(frame)
            else:
                self.up.insert(drafts[index % len(drafts)], frame)

    def forge_stale(self, start: int, ids: tuple[int, ...]) -> None:
        """Drafts of an epoch that the edge has left behind."""
        if self.edge.epoch > 0 and self.engine is not None:
            self.inject(Draft.wishing(0, self.rng.randrange(self.edge.epoch), start, ids, start))

    def inject(self, message: EdgeMessage) -> None:
        self.up.append(encode(message))

    def disconnect(self) -> None:
        if self.connected:
            self.connected = False
            self.gateway.disconnected(self.now)
            self._gateway_outputs()
            self.edge.link_lost(Unavailable("link lost"))
            self._edge_actions()

    def client_leaves(self) -> None:
        self.edge.client_left()
        self._edge_actions()

    # Ends.

    def settle(self) -> None:
        """No more faults: everything that can move moves, in fair turns, and the clock runs when nothing else does."""
        for _ in range(4000):
            moves = [
                self.edge_sends(),
                self.deliver_up(),
                self.engine_starts(),
                self.engine_steps(),
                self.deliver_down(),
                self.lane_applies(),
                self.lane_reports(),
                self.lane_drafts(),
                self.client_takes(),
            ]
            self.check()
            if not any(moves):
                if self.over:
                    return
                self.clock(1.0)
        raise AssertionError(f"not over after 4000 rounds: {self.describe()}")

    def drain(self) -> None:
        """Deliver what is under way, and nothing else."""
        while any([self.edge_sends(), self.deliver_up(), self.engine_starts(), self.deliver_down()]):
            self.check()

    @property
    def over(self) -> bool:
        return (self.complete or self.error is not None) and not self.untaken

    def check(self) -> None:
        """What must hold after every move."""
        assert self.truth.startswith(self.text), (self.truth, self.text)
        shown = self.text + b"".join(event.payload for event in self.untaken)
        assert self.truth.startswith(shown)
        truth = [*self.prompt, *self.truth]
        edge = list(self.edge.committed)
        assert edge == truth[: len(edge)]
        session = self.gateway.session(0)
        if session is not None:
            assert list(session.committed) == truth[: len(session.committed)]
            assert len(edge) <= len(session.committed)
            assert session.held <= MAX_PATH
        assert len(self.down) <= 2 * MAX_UNACKED + 8
        assert self.edge.counts.accepted <= self.edge.counts.sent
        if self.complete:
            assert shown == self.truth, "an answer that is cut off looks complete"

    def describe(self) -> str:
        return f"text {self.text!r} of {self.truth!r}, {len(self.up)} up, {len(self.down)} down, error {self.error}"

    # Plumbing.

    def _drafts_under_way(self) -> list[int]:
        return [i for i, frame in enumerate(self.up) if isinstance(decode_edge(frame), Draft)]

    def _gateway_outputs(self) -> None:
        for output in self.gateway.take_outputs():
            match output:
                case StartRequest(request):
                    self.starting = request
                case CancelRequest():
                    self.starting = None
                case StepRequest(_, drafts, ahead):
                    assert self.engine is not None
                    self.engine.order(drafts, ahead)
                case AbortRequest():
                    assert self.engine is not None
                    self.engine.aborted = True
                case AdoptRequest():
                    raise AssertionError("of nothing")
                case Hangup():
                    self.hung_up = True
                case _:
                    self.down.append(encode(output))

    def _edge_actions(self) -> None:
        for action in self.edge.take_actions():
            match action:
                case StartDrafting(prompt_ids):
                    self.lane = ToyLane(list(prompt_ids), self.seed, self.wrong, self.dry, self.rng)
                case Commit():
                    assert self.lane is not None
                    self.lane.commits.append(action)
                case StopDrafting():
                    self.lane = None
                case Deliver():
                    self.untaken.append(action)
                case Complete():
                    self.complete = True
                case Fail(error):
                    self.error = error


__all__ = ["EOS", "FOREVER", "INFO", "N_VOCAB", "PRINT", "Run", "ToyEngine", "World", "target_token"]
