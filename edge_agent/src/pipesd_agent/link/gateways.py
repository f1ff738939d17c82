"""The list of gateways: which one is tried next, which one serves now, and why none does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from pipesd_agent.link.address import Address
from pipesd_agent.link.breaker import CircuitBreaker, CircuitState
from pipesd_core.errors import ApiError, Unauthorized, Unavailable


class Gateway:
    """One of the list.

    Attributes:
        why: there is no link to it.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.circuit = CircuitBreaker()
        self.why: ApiError = Unavailable("not connected to the gateway yet; try again")
        self._drains_until = 0.0

    def drains(self, now: float, seconds: float) -> None:
        """It is about to end, and takes nothing new."""
        self._drains_until = now + seconds

    def draining(self, now: float) -> bool:
        return now < self._drains_until


class Gateways:
    """In the order of preference. The link alone says what becomes of them.

    Attributes:
        current: the one that the link is up to.
        moved: set when that has become another one; whoever waits for it clears it.
    """

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._all = [Gateway(address) for address in addresses]
        self.current: Gateway | None = None
        self.moved = asyncio.Event()

    def __len__(self) -> int:
        return len(self._all)

    def __str__(self) -> str:
        return ", ".join(gateway.address.http for gateway in self._all)

    @property
    def why(self) -> ApiError:
        """What a client is told that no gateway serves."""
        whys = [gateway.why for gateway in self._all]
        if len(whys) == 1:
            return whys[0]
        refused = all(isinstance(why, Unauthorized) for why in whys)
        return (Unauthorized if refused else Unavailable)(f"none of {len(whys)} gateways: " + "; ".join(map(str, whys)))

    def order(self, now: float) -> list[Gateway]:
        """To be tried in turn: those that may be tried now as they were given, but such as failed last come after the
        others, and draining ones last; then the rest, whichever is due first.

        So a link that was cut comes back where its sessions are, and the preferred gateway is tried when that fails.
        """

        def rank(gateway: Gateway) -> tuple[float, bool, bool]:
            circuit = gateway.circuit
            return circuit.wait(now), gateway.draining(now), circuit.state(now) is not CircuitState.CLOSED

        return sorted(self._all, key=rank)

    def due_in(self, now: float) -> float:
        """Seconds until one of them may be tried."""
        return min(gateway.circuit.wait(now) for gateway in self._all)

    def to_ask(self) -> list[Gateway]:
        """For requests beside the link, in turn: the one that it is up to first."""
        order = self.order(time.monotonic())
        return sorted(order, key=lambda gateway: gateway is not self.current)

    def serves(self, gateway: Gateway | None) -> None:
        """The link is up to this one; None: to none."""
        if gateway is not None and gateway is not self.current:
            self.moved.set()
        self.current = gateway

    def report(self, now: float) -> list[dict[str, Any]]:
        """For `/health`."""
        return [
            {
                "url": gateway.address.http,
                "connected": gateway is self.current,
                "circuit": str(gateway.circuit.state(now)),
                "failures": gateway.circuit.failures,
                "next_attempt_s": None if gateway is self.current else round(gateway.circuit.wait(now), 2),
                "draining": gateway.draining(now),
            }
            for gateway in self._all
        ]
