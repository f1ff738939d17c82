"""Sessions per API key: the count, and that every way a session can end gives back exactly what it took."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipesd_core.engine.interface import ModelInfo, Opening, StepDone
from pipesd_core.errors import EngineFailed, ModelNotFound, Overloaded
from pipesd_core.protocol.messages import (
    VERSION,
    Ack,
    Close,
    Draft,
    EdgeMessage,
    Endpoint,
    Failed,
    Open,
    Resume,
    encode,
)
from pipesd_core.sampling.params import SamplingParams
from pipesd_gateway.connection import GatewayConnection, Hangup, Output, StartRequest
from pipesd_gateway.limits import SessionLimits
from pipesd_gateway.quota import Quota
from pipesd_gateway.registry import Registry
from pipesd_gateway.session import GatewaySession

INFO = ModelInfo("toy", n_vocab=100, fingerprint=b"f" * 16, max_context=64, max_drafts=5)
OPENING = Opening((1, 2, 3), SamplingParams(seed=5), 50, (9,), "toy")
KEYS = ("one", "one", "other")
"""The API keys of the connections."""
LIMIT = 3


def test_a_count_per_key_over_all_connections() -> None:
    quota = Quota(2)
    first, second, other = quota.share("a"), quota.share("a"), quota.share("b")
    first.acquire()
    second.acquire()
    with pytest.raises(Overloaded, match="2 sessions are open with this API key; the limit is 2") as refused:
        first.acquire()
    assert (refused.value.status, refused.value.retry_after_s) == (429, 1)
    other.acquire()
    second.release()
    first.acquire()
    assert (first.taken, second.taken, other.taken) == (2, 2, 1)


def test_connections_per_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipesd_gateway.quota.MAX_CONNECTIONS_PER_KEY", 2)
    quota = Quota(1)
    with quota.share("a").connection(), quota.share("a").connection():
        with pytest.raises(Overloaded, match="2 agents are connected with this API key; the limit is 2") as refused:
            quota.share("a").connection().__enter__()
        assert (refused.value.status, refused.value.retry_after_s) == (429, 1)
        with quota.share("b").connection():
            pass
    for _ in range(3):
        with quota.share("a").connection():
            pass
    assert quota._connected == {}
    with contextlib.ExitStack() as stack:  # where more sessions are allowed, so are more agents
        for _ in range(3):
            stack.enter_context(Quota(3).share(None).connection())


def test_without_keys_all_share_one_count() -> None:
    quota = Quota(1)
    quota.share(None).acquire()
    with pytest.raises(Overloaded, match="1 sessions are open on this server, which has no API keys; the limit is 1"):
        quota.share(None).acquire()


def test_what_was_not_taken_cannot_be_given_back() -> None:
    share = Quota(1).share("a")
    with pytest.raises(KeyError):
        share.release()


def test_no_key_is_kept() -> None:
    quota = Quota(1)
    share = quota.share("sk-very-secret")
    share.acquire()
    assert "sk-very" not in repr([vars(quota), vars(share)])
    assert Quota(1).share("sk-very-secret")._owner != share._owner, "a digest that anybody can compute"


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_lets_nobody_in(limit: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Quota(limit)


class Agents:
    """Three connections of two keys, and an engine that does whatever it is told."""

    def __init__(self) -> None:
        self.quota = Quota(LIMIT)
        self.now = 0.0
        self.registry = Registry()
        self.lost: list[tuple[str, GatewayConnection]] = []
        self.connections = [self._connect(at) for at in range(len(KEYS))]

    def _connect(self, at: int) -> GatewayConnection:
        limits = SessionLimits(park_timeout_s=5, stall_timeout_s=60)
        return GatewayConnection(INFO, limits, self.quota.share(KEYS[at]), self.registry, max_sessions=LIMIT + 1)

    def taken(self, key: str) -> int:
        return self.quota.share(key).taken

    def expected(self, key: str) -> int:
        return sum(c.channels for its, c in (*zip(KEYS, self.connections, strict=True), *self.lost) if its == key)

    def send(self, at: int, message: EdgeMessage | bytes) -> None:
        self.connections[at].receive(message if isinstance(message, bytes) else encode(message), self.now)

    # What can happen on connection `at`: to a channel, or to the nth of those that it can happen to.

    def open(self, at: int, channel: int) -> None:
        self.send(at, Open(channel, VERSION, Endpoint.COMPLETIONS, b"{}", INFO.fingerprint))

    def open_another_vocabulary(self, at: int, channel: int) -> None:
        self.send(at, Open(channel, VERSION, Endpoint.COMPLETIONS, b"{}", b"x" * 16))

    def open_another_version(self, at: int, channel: int) -> None:
        self.send(at, Open(channel, VERSION + 1, Endpoint.COMPLETIONS, b"{}", None))

    def resume_nothing(self, at: int, channel: int) -> None:
        self.send(at, Resume(channel, bytes(16), 0))

    def resume(self, at: int, channel: int) -> None:
        """Any session there is, of any key."""
        if locations := list(self.registry._locations):
            self.send(at, Resume(channel, locations[channel % len(locations)], 0))

    def accept(self, at: int, n: int) -> None:
        if waiting := list(self.connections[at]._waiting):
            self.connections[at].accepted(waiting[n % len(waiting)], OPENING, self.now)

    def refuse(self, at: int, n: int) -> None:
        if waiting := list(self.connections[at]._waiting):
            self.connections[at].refused(waiting[n % len(waiting)], ModelNotFound("no such model"))

    def step(self, at: int, n: int) -> None:
        self._report(at, n, lambda session: session.step_done(StepDone((5,), 0, 0, 0, 0), self.now))

    def finish(self, at: int, n: int) -> None:
        self._report(at, n, GatewaySession.finished)

    def fail(self, at: int, n: int) -> None:
        self._report(at, n, lambda session: session.broken(EngineFailed("boom")))

    def _report(self, at: int, n: int, what: Callable[[GatewaySession], None]) -> None:
        if running := list(self.connections[at]._sessions.values()):
            session = running[n % len(running)]
            what(session)
            self.connections[at].collect(session.channel)

    def close(self, at: int, n: int) -> None:
        if used := [*self.connections[at]._waiting, *self.connections[at]._sessions]:
            self.send(at, Close(used[n % len(used)]))

    def draft_nonsense(self, at: int, n: int) -> None:
        if running := list(self.connections[at]._sessions):
            self.send(at, Draft(running[n % len(running)], 1, 4, (INFO.n_vocab,)))

    def acknowledge_the_future(self, at: int, n: int) -> None:
        if running := list(self.connections[at]._sessions):
            self.send(at, Ack(running[n % len(running)], 2**20))

    def close_at_random(self, at: int, channel: int) -> None:
        self.send(at, Close(channel))

    def wait(self, _at: int, _channel: int) -> None:
        self.now += 100
        for connection in (*self.connections, *(c for _, c in self.lost)):
            connection.tick(self.now)

    def say_garbage(self, at: int, _channel: int) -> None:
        self.send(at, b"\xc1")

    def disconnect(self, at: int, _channel: int) -> None:
        self.connections[at].disconnected(self.now)
        assert not self.connections[at]._waiting
        self.lost.append((KEYS[at], self.connections[at]))
        self.connections[at] = self._connect(at)

    def listen(self) -> None:
        """Hear every connection; one that hangs up is left, and made anew."""
        for at, connection in enumerate(self.connections):
            outputs = connection.take_outputs()
            if any(isinstance(output, Hangup) for output in outputs):
                self.disconnect(at, 0)
            if any(refused(output) for output in outputs):
                assert self.taken(KEYS[at]) == LIMIT


def refused(output: Output) -> bool:
    return (
        isinstance(output, Failed)
        and output.status == 429
        and "with this API key" in msgspec.json.decode(output.body)["error"]["message"]
    )


Happening = Callable[[Agents, int, int], None]
HAPPENINGS: tuple[Happening, ...] = (
    Agents.open, Agents.accept, Agents.step, Agents.open_another_vocabulary, Agents.open_another_version,
    Agents.resume, Agents.resume_nothing, Agents.refuse, Agents.finish, Agents.fail, Agents.close,
    Agents.draft_nonsense, Agents.acknowledge_the_future, Agents.close_at_random, Agents.wait, Agents.say_garbage,
    Agents.disconnect,
)  # fmt: skip
# Opening and accepting more often than all that ends a session, so that the limit is met.
happenings = st.lists(
    st.tuples(
        st.sampled_from(
            (Agents.open, Agents.open, Agents.open, Agents.accept, Agents.accept, Agents.resume, *HAPPENINGS)
        ),
        st.integers(0, len(KEYS) - 1),
        st.integers(0, LIMIT),
    ),
    max_size=60,
)


@given(happenings)
@settings(max_examples=200)
def test_every_end_of_a_session_gives_its_place_back_once(happenings: list[tuple[Happening, int, int]]) -> None:
    agents = Agents()
    for happening, at, channel in happenings:
        happening(agents, at, channel)
        for key in set(KEYS):
            assert agents.taken(key) == agents.expected(key) <= LIMIT, happening.__name__
        agents.listen()
    for connection in agents.connections:
        connection.disconnected(agents.now)
    agents.wait(0, 0)
    assert not agents.quota._taken
    assert not agents.registry


def test_the_refusal_is_the_session_s_and_its_channel_may_be_used_again() -> None:
    agents = Agents()
    for channel in range(LIMIT):
        agents.open(0, channel)
    agents.listen()
    agents.open(1, 7)
    (fault,) = agents.connections[1].take_outputs()
    assert isinstance(fault, Failed)
    assert (fault.channel, fault.code, fault.status, fault.retry_after_s) == (7, "overloaded", 429, 1)
    agents.open(2, 7)
    assert isinstance(agents.connections[2].take_outputs()[0], StartRequest)
    agents.close(0, 0)
    agents.open(1, 7)
    assert isinstance(agents.connections[1].take_outputs()[0], StartRequest)
