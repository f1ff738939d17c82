"""Who finds which session."""

from __future__ import annotations

from pipesd_core.engine.interface import Opening
from pipesd_core.sampling.params import SamplingParams
from pipesd_gateway.limits import SessionLimits
from pipesd_gateway.quota import Quota
from pipesd_gateway.registry import Registry
from pipesd_gateway.session import GatewaySession


class Nobody:
    number = 0

    def surrender(self, session: GatewaySession) -> None:
        raise AssertionError(session)


def make_session(session_id: bytes) -> GatewaySession:
    opening = Opening((1,), SamplingParams(), 5, (9,), "toy")
    limits = SessionLimits()
    return GatewaySession(
        0, session_id, opening, collaborative=True, n_vocab=10, max_drafts=4, limits=limits, now=0
    )  # fmt: skip


def test_a_session_is_found_by_its_owner_only_and_until_it_is_dropped() -> None:
    quota, registry = Quota(), Registry()
    mine, other = quota.share("mine").owner, quota.share("other").owner
    session, holder = make_session(b"a" * 16), Nobody()
    registry.put(session, mine, holder)
    location = registry.find(b"a" * 16, mine)
    assert location is not None
    assert (location.session, location.holder) == (session, holder)
    assert registry.find(b"a" * 16, other) is None
    assert registry.find(b"a" * 16, b"") is None
    assert registry.find(b"b" * 16, mine) is None
    registry.put(session, mine, Nobody())
    assert len(registry) == 1
    registry.drop(session)
    registry.drop(session)
    assert registry.find(b"a" * 16, mine) is None
