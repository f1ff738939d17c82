"""What the plugin adds to vLLM's own `/metrics`: what the embedded gateway shows of sessions and steps, and the parked.

It is one collector in prometheus_client's registry. Requests to vLLM's own API are in vLLM's metrics only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pipesd_core.service.exposition import Families, Family, to_prometheus
from pipesd_gateway.metrics import GatewayMetrics

if TYPE_CHECKING:
    from prometheus_client import Metric


class PluginMetrics:
    """The metrics of one API server; a collector of prometheus_client.

    Attributes:
        gateway: measures the sessions and the steps.
        scheduler: the last figures of `ParkingScheduler.pipesd_stats`.
    """

    def __init__(self) -> None:
        self.gateway = GatewayMetrics()
        self.scheduler: Mapping[str, int] = {}

    def families(self) -> list[Family]:
        """What a scrape shows."""
        engine, figures = Families("pipesd_engine_"), self.scheduler
        engine.gauge("sequences_open", "Sequences of sessions that the scheduler knows", figures.get("sessions", 0))
        engine.gauge(
            "sequences_parked", "Sequences that wait for their edge and hold KV blocks", figures.get("parked", 0)
        )
        engine.gauge(
            "sequences_evicted",
            "Sequences that wait for their edge and have lost their KV blocks",
            figures.get("evicted", 0),
        )
        engine.counter("evictions", "Parked sequences that lost their KV blocks", figures.get("evictions", 0))
        return [*self.gateway.families({}), *engine]

    def collect(self) -> Iterator[Metric]:
        """The families as prometheus_client wants them."""
        return to_prometheus(self.families())
