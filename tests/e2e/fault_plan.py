"""When which fault happens, from a seed; and how long a request may take that meets some of them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pipesd_agent.link.dialing import CONNECT_TIMEOUT_S
from pipesd_agent.link.link import BACKOFF_LIMIT_WITH_CLIENTS_S
from pipesd_core.protocol.websocket import PING_INTERVAL_S, PING_TIMEOUT_S

GRACE_S: Final = 8
"""Of both ends."""
DETECTION_S: Final = PING_INTERVAL_S + PING_TIMEOUT_S
ANSWER_S: Final = 12.0
"""For an answer without any fault, its queue included: it takes 1 to 3 s, but the machine may be busy."""
RECONNECT_S: Final = BACKOFF_LIMIT_WITH_CLIENTS_S + 1.0
"""Longest break after which a link whose end was noticed at once is back."""


class Kind(StrEnum):
    """Of a fault; the longer it is felt, the later."""

    SLICE = "slices of 7 bytes"
    RESET = "reset (RST)"
    CUT = "cut (FIN)"
    HALF_OPEN_GATEWAY = "half-open, the gateway's end stays"
    REFUSE = "reset, then refused"
    THROTTLE = "throttled to 1 kbit/s"
    HANG = "hang"
    GONE = "reset, then refused for longer than the grace time"
    HALF_OPEN_AGENT = "half-open, the agent's end stays"
    KILL_GATEWAY = "gateway killed (-9)"
    KILL_AGENT = "agent killed (-9)"
    VANISH = "client vanishes"
    SLOW = "slow reader"


SHORT: Final = (Kind.RESET, Kind.CUT, Kind.SLICE)
LONG: Final = (Kind.HANG, Kind.HALF_OPEN_AGENT, Kind.HALF_OPEN_GATEWAY, Kind.THROTTLE, Kind.REFUSE, Kind.GONE)
OF_CLIENTS: Final = (Kind.VANISH, Kind.SLOW)
SECONDS: Final = {Kind.SLICE: 0.8, Kind.HANG: 5.0, Kind.THROTTLE: 6.0, Kind.REFUSE: 3.0, Kind.GONE: GRACE_S + 1.5}
"""How long the link stays so."""
KILL_CYCLE_S: Final = 14.0
LINK_CYCLE_S: Final = 14.0


@dataclass(frozen=True)
class Fault:
    """at: seconds after the beginning of its phase. agent: whose link, process or client; None: all of them."""

    at: float
    kind: Kind
    agent: int | None


@dataclass(frozen=True)
class Happened:
    """A fault and when it began and ended, clock readings."""

    kind: Kind
    agent: int | None
    began: float
    ended: float

    @property
    def felt_until(self) -> float:
        """When the link is there again at the latest, if nothing else happens."""
        unnoticed = DETECTION_S if self.kind is Kind.HALF_OPEN_AGENT else 0.0
        return self.ended + unnoticed + RECONNECT_S

    def meets(self, agent: int, began: float, ended: float) -> bool:
        """Did a request of this agent's feel it? Faults of a client are its own."""
        if self.kind in OF_CLIENTS or self.agent not in (None, agent):
            return False
        return began < self.felt_until and self.began < ended


def kills(seed: int, agents: int, cycles: int) -> list[Fault]:
    """A phase in which processes die. Each cycle: the gateway, then an agent; links of the others have short faults."""
    source = random.Random(seed)
    faults = []
    for cycle in range(cycles):
        begin = cycle * KILL_CYCLE_S
        dying = cycle % agents
        faults += [Fault(begin + 1.0, Kind.KILL_GATEWAY, None), Fault(begin + 7.5, Kind.KILL_AGENT, dying)]
        for agent in range(agents):
            if agent != dying:
                faults += _spread(source, begin + 7.0, begin + 13.0, _drawn(source, SHORT, 3), agent)
            faults.append(Fault(begin + source.uniform(0.0, 12.0), Kind.VANISH, agent))
    return sorted(faults, key=lambda fault: fault.at)


def links(seed: int, agents: int, cycles: int) -> list[Fault]:
    """A phase in which links have every trouble. Each cycle and agent: one long fault, then three short ones."""
    source = random.Random(seed)
    faults = []
    troubles = _drawn(source, LONG, agents * cycles)
    for agent in range(agents):
        for cycle in range(cycles):
            begin = 4.0 * agent + cycle * LINK_CYCLE_S
            faults.append(Fault(begin + 0.5, troubles.pop(), agent))
            faults += _spread(source, begin + 10.5, begin + 14.0, _drawn(source, SHORT, 3), agent)
            faults.append(Fault(begin + source.uniform(0.0, 12.0), Kind.VANISH, agent))
            if cycle % 2 == 0:
                faults.append(Fault(begin + source.uniform(0.0, 4.0), Kind.SLOW, agent))
    return sorted(faults, key=lambda fault: fault.at)


def one_by_one(seed: int) -> list[Fault]:
    """For one agent: every fault that its link, its process and its clients can have, with time to get over it."""
    source = random.Random(seed)
    faults, at = [], 2.0
    for kind in _drawn(source, (*SHORT, *LONG, Kind.KILL_AGENT, Kind.RESET, Kind.CUT), 12):
        faults.append(Fault(at, kind, 0))
        at += 4.0 if kind in SHORT else 11.0
    faults += [Fault(source.uniform(0.0, at), kind, 0) for kind in (*OF_CLIENTS, *OF_CLIENTS)]
    return sorted(faults, key=lambda fault: fault.at)


def bound_s(agent: int, began: float, ended: float, faults: Iterable[Happened]) -> float:
    """How long a request of this agent's may take that met some of these faults.

    After each of them the link is there again, or the request fails when the grace time has gone by since the loss was
    noticed, which takes DETECTION_S where nobody says so.
    """
    allowed = ANSWER_S + CONNECT_TIMEOUT_S + 1
    for fault in faults:
        if fault.meets(agent, began, ended):
            allowed += RECONNECT_S if fault.kind in SHORT else DETECTION_S + GRACE_S
    return allowed


def _drawn(source: random.Random, kinds: tuple[Kind, ...], count: int) -> list[Kind]:
    """All kinds equally often, in an order of their own."""
    drawn: list[Kind] = []
    while len(drawn) < count:
        drawn += source.sample(kinds, len(kinds))
    return drawn[:count]


def _spread(source: random.Random, begin: float, end: float, kinds: list[Kind], agent: int) -> list[Fault]:
    """One after the other, none before the one before it is over."""
    each = (end - begin) / len(kinds)
    return [Fault(begin + (number + source.uniform(0.0, 0.2)) * each, kind, agent) for number, kind in enumerate(kinds)]
