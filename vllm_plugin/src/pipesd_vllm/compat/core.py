"""Calls from the API server to the parking scheduler: utility calls of vLLM's own client-to-core socket.

They are handled in order with new requests and before the next step. Their names are looked up on `EngineCore`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm.v1.engine.core import EngineCore
from vllm.v1.engine.exceptions import EngineDeadError

from pipesd_core.errors import Unavailable
from pipesd_vllm.compat.ending import EngineGone
from pipesd_vllm.compat.outputs import times_of
from pipesd_vllm.compat.replacing import replace_once
from pipesd_vllm.rpc_coalescer import Order

VERIFY = "pipesd_verify"
STATS = "pipesd_stats"


def extend_engine_core() -> None:
    """Add the calls. Harmless when repeated."""

    def verify(self: Any, orders: list[Order]) -> list[str]:
        results: list[str] = self.scheduler.verify(orders)
        return results

    def stats(self: Any) -> dict[str, int]:
        figures: dict[str, int] = self.scheduler.pipesd_stats()
        return figures

    setattr(EngineCore, VERIFY, verify)
    setattr(EngineCore, STATS, stats)
    replace_once(EngineCore, "post_step", _without_asking_for_drafts)


def _without_asking_for_drafts(original: Callable[..., None]) -> Callable[..., None]:
    """Spare every step the call that fetches the proposer's drafts: with our scheduler there are none."""

    def post_step(self: Any, model_executed: bool) -> None:
        if not hasattr(self.scheduler, STATS):
            original(self, model_executed)

    return post_step


class Core:
    """The calls, as seen from the API server.

    Attributes:
        times: how long steps waited and took, of sessions that are watched.
    """

    def __init__(self, engine_client: Any) -> None:
        self._client = engine_client
        self._core = engine_client.engine_core
        self.times = times_of(self._core)

    @property
    def gone(self) -> bool:
        """Whether the engine core has died, or been stopped."""
        return bool(self._client.errored)

    async def verify(self, orders: list[Order]) -> list[str]:
        """Start a round of each session. "ok", or what is wrong, for each. Raises Unavailable."""
        results: list[str] = await self._call(VERIFY, orders)
        return results

    async def stats(self) -> dict[str, int]:
        """The scheduler's figures; see `ParkingScheduler.pipesd_stats`."""
        figures: dict[str, int] = await self._call(STATS)
        return figures

    async def _call(self, name: str, *args: Any) -> Any:
        try:
            return await self._core.call_utility_async(name, *args)
        except EngineDeadError:
            raise EngineGone from None
        except Exception as error:  # vLLM raises bare Exceptions here
            raise Unavailable(f"vLLM's engine does not answer ({error}); try again later") from error
