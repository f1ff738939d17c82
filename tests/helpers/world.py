"""Both ends of pipesd.v1 joined by a hostile pipe, with a made-up target and drafter: no sockets, threads or clocks."""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable
from functools import lru_cache

from whims import AnyBatcher, AnyTrigger, Whims

from pipesd_agent.control.triggers import DualSettings, TriggerSettings
from pipesd_agent.control.upload_planner import Planner
from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.session.actions import Commit, Complete, Deliver, Fail, StartDrafting, StopDrafting
from pipesd_agent.session.policies import Batcher, Policies
from pipesd_agent.session.records import RequestRecord
from pipesd_agent.session.remote_error import RemoteError
from pipesd_agent.session.session import EdgeSession
from pipesd_agent.session.settings import SessionSettings
from pipesd_core.engine.interface import Finished, ModelInfo, Opening, Payload, StepDone
from pipesd_core.errors import ApiError, Unavailable
from pipesd_core.protocol.messages import (
    FOREVER,
    MAX_UNACKED,
    VERSION,
    Draft,
    Draining,
    EdgeMessage,
    Endpoint,
    Open,
    Rejected,
    Run,
    decode_edge,
    decode_gateway,
    encode,
)
from pipesd_core.sampling.params import SamplingParams
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
from pipesd_gateway.quota import Quota
from pipesd_gateway.registry import Registry
from pipesd_gateway.session import MAX_PATH

N_VOCAB = 6
EOS = 5
PRINT = b"pipesd-test-vocab"
INFO = ModelInfo("toy", N_VOCAB, PRINT, max_context=4096, max_drafts=7)
GRACE_S = 30.0
STALL_S = 60.0
HALF_OPEN_S = 9.0
"""After so long a gateway notices by its pings that a link is dead."""


def letters(ids: list[int]) -> str:
    """The text of some tokens."""
    return "".join(chr(ord("a") + token) for token in ids)


@lru_cache(maxsize=1024)
def name_and_text(payload: bytes) -> tuple[str, str]:
    """(id, text) of a chunk; the same ones are looked at after each move."""
    chunk = json.loads(payload)
    name, text = chunk["id"], chunk["choices"][0]["text"]
    assert isinstance(name, str)
    assert isinstance(text, str)
    return name, text


def target_token(ids: list[int], seed: int) -> int:
    """The made-up target: any deterministic function of all ids will do; EOS is rare."""
    draw = random.Random(hash((seed, len(ids), *ids[-3:])))
    return EOS if draw.random() < 0.01 else draw.randrange(EOS)


class ToyEngine:
    """One generation of the made-up target, stepping only when the world says so. Its text lags behind at random."""

    def __init__(self, prompt: list[int], max_tokens: int, seed: int, name: str, rng: random.Random) -> None:
        self.ids = list(prompt)
        self.prompt_length = len(prompt)
        self.limit = len(prompt) + max_tokens
        self.seed = seed
        self.name = name
        self.rng = rng
        self.shown = len(prompt)
        self.session_id = b""
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
        outputs: list[StepDone | Payload | Finished] = [
            StepDone(tuple(tokens), len(drafts), accepted, 0, 0, ends=self.over)
        ]
        if self.over or self.rng.random() < 0.7:
            text = letters(self.ids[self.shown :])
            self.shown = len(self.ids)
            choice = {"index": 0, "text": text, "finish_reason": "stop" if self.over else None}
            payload = json.dumps({"id": self.name, "choices": [choice]}).encode()
            outputs.append(Payload(payload, len(self.ids) - self.prompt_length))
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


class Node:
    """One connection, as the gateway sees it, and what is under way on it."""

    def __init__(self, connection: GatewayConnection) -> None:
        self.connection = connection
        self.up: deque[bytes] = deque()
        self.down: deque[bytes] = deque()
        self.engine: ToyEngine | None = None
        self.starting: Open | None = None
        self.hung_up = False
        self.dead_since: float | None = None
        """The edge has left it, and the gateway does not know."""


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
        batcher: str | Batcher = "immediate",
        window: int = 12,
        drafter_context: int = 10_000,
        collaborative: bool = True,
        free_start: int | None = None,
        restless: float = 0.0,
        whimsical: bool = False,
    ) -> None:
        self.rng = random.Random(seed)
        self.seed = seed
        self.wrong, self.dry = wrong, dry
        self.now = 1000.0
        self.prompt = [self.rng.randrange(EOS) for _ in range(5)]
        self.max_tokens = max_tokens
        self.truth = self._truth()
        self._whole = letters(self.truth)
        self.collaborative = collaborative
        self._start_gateway()
        self.node = self._connect()
        self.old: list[Node] = []
        self.mode = Whims(seed, restless)
        self.noted = RequestRecord("toy")
        if isinstance(batcher, str):
            batcher = Planner(batcher).batcher()
        policies = Policies((trigger or DualSettings()).make(), batcher, self.noted, self.mode)
        if whimsical:
            policies = Policies(AnyTrigger(self.mode.rng), AnyBatcher(self.mode.rng), self.noted, self.mode)
        self.edge = EdgeSession(
            Open(0, VERSION, Endpoint.COMPLETIONS, b"{}", PRINT if collaborative else None),
            policies,
            SessionSettings(
                window=window,
                verification_timeout_s=4,
                silence_timeout_s=10_000,
                grace_s=GRACE_S,
                free_start=free_start,
            ),
            max_context=drafter_context if collaborative else 0,
            now=self.now,
        )
        self.counted = (0, 0, 0)
        """Drafts sent, accepted and drafted at the last check."""
        self.lane: ToyLane | None = None
        self.untaken: deque[Deliver] = deque()
        self.text = ""
        self.names: set[str] = set()
        """Names of the engines in the events that the client got."""
        self.complete = False
        self.error: ApiError | None = None
        self.lost = Unavailable("link lost")
        self.connected = True
        self.cut_at = 0.0
        self.engines = 0
        self.restarts = 0
        self.refusing = False
        """The gateway is about to end, and opens nothing again."""
        self.away = False
        """The link was gone for longer than the grace time, or a gateway that opens the request."""
        self.taken_at = self.now
        self.asleep = False
        """The client took nothing for longer than a gateway stands that."""
        self.edge_sends()

    @property
    def gateway(self) -> GatewayConnection:
        return self.node.connection

    @property
    def engine(self) -> ToyEngine | None:
        return self.node.engine

    @property
    def up(self) -> deque[bytes]:
        return self.node.up

    @property
    def down(self) -> deque[bytes]:
        return self.node.down

    @property
    def hung_up(self) -> bool:
        return self.node.hung_up

    @property
    def nodes(self) -> list[Node]:
        return [*self.old, self.node]

    def _start_gateway(self) -> None:
        self.registry = Registry()
        self.quota = Quota()

    def _connect(self) -> Node:
        limits = SessionLimits(park_timeout_s=5, stall_timeout_s=STALL_S, grace_s=GRACE_S)
        return Node(GatewayConnection(INFO, limits, self.quota.share(None), self.registry))

    def _truth(self) -> list[int]:
        ids = list(self.prompt)
        while len(ids) < len(self.prompt) + self.max_tokens and (len(ids) == len(self.prompt) or ids[-1] != EOS):
            ids.append(target_token(ids, self.seed))
        return ids[len(self.prompt) :]

    # Moves.

    def edge_sends(self) -> bool:
        message = self.edge.next_message(self.now)
        if message is not None:
            assert self.connected
            self.up.append(encode(message))
        return message is not None

    def deliver_up(self) -> bool:
        return self.connected and self._deliver_up(self.node)

    def deliver_up_late(self) -> bool:
        """What the edge had said on links that it has left since."""
        return sum(self._deliver_up(node) for node in self.old if node.dead_since is not None) > 0

    def _deliver_up(self, node: Node) -> bool:
        if node.up and not node.hung_up:
            node.connection.receive(node.up.popleft(), self.now)
            self._gateway_outputs(node)
            return True
        return False

    def deliver_down(self) -> bool:
        if self.down and self.connected:
            message = decode_gateway(self.down.popleft())
            assert not isinstance(message, Rejected | Draining), message
            self.edge.receive(message, self.now)
            self._edge_actions()
            return True
        return False

    def engine_starts(self) -> bool:
        return sum(self._engine_starts(node) for node in self.nodes) > 0

    def _engine_starts(self, node: Node) -> bool:
        if node.starting is None:
            return False
        body, node.starting = json.loads(node.starting.body), None
        if self.refusing and self.edge.opened is not None:
            node.connection.refused(0, Unavailable("shutting down"))
            self._gateway_outputs(node)
            return True
        self.engines += 1
        seed = body.get("seed", self.seed if self.engines == 1 else self.seed + self.engines)
        if self.edge.opened is None:
            seed = self.seed  # nobody knows of another yet
        node.engine = ToyEngine(self.prompt, self.max_tokens, seed, f"engine {self.engines}", self.rng)
        opening = Opening(tuple(self.prompt), SamplingParams(seed=seed), self.max_tokens, (EOS,), "toy")
        node.engine.session_id = node.connection.accepted(0, opening, self.now)
        self._gateway_outputs(node)
        return True

    def engine_steps(self) -> bool:
        return sum(self._engine_steps(node) for node in self.nodes) > 0

    def _engine_steps(self, node: Node) -> bool:
        engine = node.engine
        if engine is None or engine.ordered is None or engine.aborted:
            return False
        if self.rng.random() < 0.1:
            node.connection.working(0)
            self._gateway_outputs(node)
        for output in engine.step():
            session = node.connection.session(0)
            assert session is not None
            match output:
                case StepDone():
                    session.step_done(output, self.now)
                case Payload():
                    session.payload(output)
                case Finished():
                    session.finished()
            node.connection.collect(0)
            self._gateway_outputs(node)
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
            self.edge.drafted(*self.lane.reports.popleft(), self.now)
            self._edge_actions()
            return True
        return False

    def client_takes(self) -> bool:
        if self.untaken:
            event = self.untaken.popleft()
            self.text += self._text(event)
            self.edge.taken(event.seq, self.now)
            self.taken_at = self.now
            return True
        return False

    def clock(self, seconds: float) -> None:
        self.now += seconds
        since = self.edge.suspended_since  # earlier than the cut where a gateway had refused before
        since = self.cut_at if since is None and not self.connected else since
        self.away = self.away or (since is not None and self.now >= since + GRACE_S)
        self.asleep = self.asleep or (bool(self.untaken) and self.now >= self.taken_at + STALL_S)
        self.edge.tick(self.now)
        self._edge_actions()
        for node in self.nodes:
            if node.dead_since is not None and self.now >= node.dead_since + HALF_OPEN_S:
                self._notice(node)
            node.connection.tick(self.now)
            self._gateway_outputs(node)

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
        """Drafts of an epoch that the edge has left behind; one that never drafts has sent none."""
        if self.collaborative and self.edge.epoch > 0 and self.listening:
            self.inject(Draft.wishing(0, self.rng.randrange(self.edge.epoch), start, ids, start))

    def inject(self, message: EdgeMessage) -> None:
        self.up.append(encode(message))

    @property
    def listening(self) -> bool:
        """Whether the session is at the gateway, on the present connection."""
        return self.connected and self.gateway.session(0) is not None

    def cut(self, *, half_open: bool) -> None:
        """What is under way is lost. half_open: only the edge notices now, and what it had said may still arrive."""
        if self.connected:
            self.connected = False
            self.cut_at = self.now
            self.edge.suspended(self.lost, self.now)
            self._edge_actions()
            self.down.clear()
            if half_open and not self.hung_up:
                self.node.dead_since = self.now
            else:
                self._notice(self.node)

    def _notice(self, node: Node) -> None:
        """The gateway hears that the link is gone."""
        node.dead_since = None
        node.up.clear()
        node.connection.disconnected(self.now)
        self._gateway_outputs(node)

    def reconnect(self) -> bool:
        if self.connected:
            return False
        self.old.append(self.node)
        self.node = self._connect()
        self.connected = True
        self.edge.resumed()
        self._edge_actions()
        return True

    def restart_gateway(self) -> None:
        """It forgets everything."""
        self.cut(half_open=False)
        self.old.clear()
        self._start_gateway()
        self.node = self._connect()
        self.restarts += 1
        self.refusing = False

    def move(self) -> None:
        """The link is given up for one to another gateway, which knows nothing; what is under way is lost."""
        if self.connected:
            self.node.connection.disconnected(self.now, for_good=True)
            self._gateway_outputs(self.node)
            self.old.clear()
            self._start_gateway()
            self.node = self._connect()
            self.restarts += 1
            self.refusing = False
            self.edge.relocated()
            self._edge_actions()

    def client_leaves(self) -> None:
        self.edge.client_left()
        self._edge_actions()

    # Ends.

    @property
    def moves(self) -> list[Callable[[], bool]]:
        """What goes on by itself while nothing is wrong; each does nothing (False) where there is nothing to do."""
        return [
            self.edge_sends,
            self.deliver_up,
            self.engine_starts,
            self.engine_steps,
            self.deliver_down,
            self.lane_applies,
            self.lane_reports,
            self.lane_drafts,
            self.client_takes,
        ]

    def settle(self) -> None:
        """No more faults: everything that can move moves, in fair turns, and the clock runs when nothing else does."""
        if self.refusing:
            self.restart_gateway()
        for _ in range(4000):
            reconnected = self.reconnect()
            if not self.turn() and not reconnected:
                if self.over:
                    return
                self.clock(1.0)
        raise AssertionError(f"not over after 4000 rounds: {self.describe()}")

    def end_without_a_clock(self, rng: random.Random) -> None:
        """Moves in any order, then all that is left: the answer is complete, and no timeout was needed."""
        weights = [rng.random() for _ in self.moves]
        start = self.now
        for move in rng.choices(self.moves, weights, k=600):
            move()
            self.check()
        self.settle()
        assert self.complete
        assert self.now == start, "only a timeout got it moving again"

    def turn(self, *, reading: bool = True) -> bool:
        """Everything that can moves once; the client only if it is reading."""
        moved = [move() for move in self.moves if reading or move != self.client_takes]
        self.check()
        return any(moved)

    @property
    def ended_rightly(self) -> bool:
        """With the whole answer, or with an error that the link or the client earned."""
        if self.error is None:
            return self.complete
        if self.asleep and "too slowly" in str(self.error.body()):
            return True
        return self.away and (self.error is self.lost or isinstance(self.error, RemoteError))

    def drain(self) -> None:
        """Deliver what is under way, and nothing else."""
        while any([self.edge_sends(), self.deliver_up(), self.engine_starts(), self.deliver_down()]):
            self.check()

    def forget(self) -> None:
        """So much time passes that nothing can be resumed any more."""
        self.cut(half_open=False)
        for _ in range(3):
            self.clock(2 * GRACE_S)

    @property
    def over(self) -> bool:
        return (self.complete or self.error is not None) and not self.untaken

    def check(self) -> None:
        """What must hold after every move."""
        shown = self.text + "".join(self._text(event) for event in self.untaken)
        assert self._whole.startswith(shown), (self._whole, shown)
        truth = [*self.prompt, *self.truth]
        edge = list(self.edge.committed)
        assert edge == truth[: len(edge)]
        session = self.gateway.session(0)
        if session is not None:
            assert list(session.committed) == truth[: len(session.committed)]
            assert len(edge) <= len(session.committed) or self.restarts or self.engines > 1
        for node in self.nodes:
            if (held := node.connection.session(0)) is not None:
                assert held.held <= MAX_PATH
        assert len(self.names) <= 1, "the client has seen two ids"
        assert self.quota.share(None).taken == sum(node.connection.channels for node in self.nodes)
        assert len(self.down) <= 2 * MAX_UNACKED + 8
        counts = self.edge.counts
        assert counts.accepted <= counts.sent <= counts.drafted
        assert counts.tokens == len(edge) - (len(self.prompt) if edge else 0)
        now = (counts.sent, counts.accepted, counts.drafted)
        assert all(new >= old for new, old in zip(now, self.counted, strict=True)), "a count fell"
        self.counted = now
        if self.complete:
            self._check_record()
        if self.complete:
            assert shown == self._whole, "an answer that is cut off looks complete"

    def _check_record(self) -> None:
        """The record has what was counted."""
        record, counts = self.noted.record(), self.edge.counts
        assert [token for token, _ in record["tokens"]] == self.truth
        assert sum(accepted for _, accepted in record["tokens"]) == record["counts"]["accepted"] == counts.accepted

    def describe(self) -> str:
        return f"text {self.text!r} of {self.truth!r}, {len(self.up)} up, {len(self.down)} down, error {self.error}"

    # Plumbing.

    def _drafts_under_way(self) -> list[int]:
        return [i for i, frame in enumerate(self.up) if isinstance(decode_edge(frame), Draft)]

    def _text(self, event: Deliver) -> str:
        name, text = name_and_text(event.payload)
        self.names.add(name)
        return text

    def _gateway_outputs(self, node: Node) -> None:
        for output in node.connection.take_outputs():
            match output:
                case StartRequest(request):
                    node.starting = request
                case CancelRequest():
                    node.starting = None
                case StepRequest(_, drafts, ahead):
                    assert node.engine is not None
                    node.engine.order(drafts, ahead)
                case AbortRequest():
                    assert node.engine is not None
                    node.engine.aborted = True
                case AdoptRequest(_, session_id):
                    self._adopt(node, session_id)
                case Hangup(superseded):
                    node.hung_up = True
                    if superseded:
                        assert node is not self.node
                        self._notice(node)
                case _ if node is self.node and self.connected:
                    node.down.append(encode(output))
                case _:
                    assert node.dead_since is not None, "said to nobody"

    def _adopt(self, node: Node, session_id: bytes) -> None:
        (before,) = [n for n in self.old if n.engine is not None and n.engine.session_id == session_id]
        node.engine, before.engine = before.engine, None
        self._gateway_outputs(before)

    def _edge_actions(self) -> None:
        for action in self.edge.take_actions():
            match action:
                case StartDrafting(prompt_ids):
                    assert self.collaborative
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
