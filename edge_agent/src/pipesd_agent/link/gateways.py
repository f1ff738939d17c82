"""The list of gateways: which one is tried next, which one is connected, and why none is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from pipesd_agent.link.address import Address
from pipesd_agent.link.circuit_breaker import CircuitBreaker, CircuitState
from pipesd_core.errors import ApiError, Unauthorized, Unavailable
from pipesd_core.service.logs import Changes

AGAIN_S: Final = 3.0
"""How long an address that answers, but takes nothing, is tried again before a client is told: a load balancer has
other servers there."""


class Declined(Unavailable):
    """Something answers at the address, but takes nothing now. Behind a load balancer the next attempt may meet another
    server."""


class Gateway:
    """One gateway of the list.

    Attributes:
        error: why there is no link to it.
        logged: what the log has of the link to it.
        lost_early: its last connection ended as soon as it was made.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.circuit = CircuitBreaker()
        self.error: ApiError = Unavailable("not connected to the gateway yet; try again")
        self.logged = Changes()
        self.lost_early = False
        self._draining_until = 0.0

    def set_draining(self, now: float, seconds: float) -> None:
        """Take note that it is about to end, for `seconds` from `now`, and accepts nothing new."""
        self._draining_until = now + seconds

    def draining(self, now: float) -> bool:
        return now < self._draining_until


class Gateways:
    """All gateways, in the order of preference. Only the link changes their state.

    Args:
        on_current: called with whether the link is connected to one, each time that this may have changed.

    Attributes:
        current: the one that the link is connected to; None: it is to none.
        current_changed: set when that is another one; the one task that waits for it (`ModelList.run`) clears it.
    """

    def __init__(self, addresses: Sequence[Address], on_current: Callable[[bool], None] = lambda _: None) -> None:
        self._all = [Gateway(address) for address in addresses]
        self.current: Gateway | None = None
        self.current_changed = asyncio.Event()
        self._on_current = on_current

    def __len__(self) -> int:
        return len(self._all)

    def __str__(self) -> str:
        return ", ".join(gateway.address.http for gateway in self._all)

    @property
    def error(self) -> ApiError:
        """The error that a client gets while no gateway is connected."""
        errors = [gateway.error for gateway in self._all]
        if len(errors) == 1:
            return errors[0]
        refused = all(isinstance(error, Unauthorized) for error in errors)
        return (Unauthorized if refused else Unavailable)(
            f"none of {len(errors)} gateways: " + "; ".join(map(str, errors))
        )

    @property
    def declined(self) -> bool:
        """Whether the last attempt at one of them was `Declined`."""
        return any(isinstance(gateway.error, Declined) for gateway in self._all)

    def in_attempt_order(self, now: float) -> list[Gateway]:
        """The gateways in the order in which to try to connect.

        First those that may be tried now, as they were given, but after them those that failed last, and then draining
        ones; at last the rest, whichever is due first. So a link that was cut comes back where its sessions are, and
        the preferred gateway is tried when that fails.
        """

        def rank(gateway: Gateway) -> tuple[float, bool, bool]:
            circuit = gateway.circuit
            return circuit.wait(now), gateway.draining(now), circuit.state(now) is not CircuitState.CLOSED

        return sorted(self._all, key=rank)

    def next_attempt_in(self, now: float) -> float:
        """Seconds until one of them may be tried."""
        return min(gateway.circuit.wait(now) for gateway in self._all)

    def in_request_order(self) -> list[Gateway]:
        """The gateways in the order in which to send HTTP requests: first the one that the link is connected to."""
        order = self.in_attempt_order(time.monotonic())
        return sorted(order, key=lambda gateway: gateway is not self.current)

    def set_current(self, gateway: Gateway | None) -> None:
        """Take note that the link is connected to this one; None: to none."""
        if gateway is not None and gateway is not self.current:
            self.current_changed.set()
        self.current = gateway
        self._on_current(gateway is not None)

    def report(self, now: float) -> list[dict[str, Any]]:
        """The state of each for `/health`."""
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
