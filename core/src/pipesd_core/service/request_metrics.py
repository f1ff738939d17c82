"""How many requests a server has, and how long they take: the histograms that vLLM has, by its names and its buckets.

Sans-I/O: whoever serves a request tells its `RequestTimer` what happens, with readings of one clock in seconds.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

from pipesd_core.service.exposition import Families
from pipesd_core.service.histograms import Histogram

TIME_TO_FIRST_TOKEN_BUCKETS: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)  # fmt: skip
INTER_TOKEN_LATENCY_BUCKETS: Final = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
REQUEST_LATENCY_BUCKETS: Final = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip
"""Seconds, as vLLM's (vllm/v1/metrics/buckets.py), so that one dashboard reads both."""

Outcome = Literal["completed", "failed", "aborted", "refused"]
"""failed: an error ended the request; refused: one that came before it was accepted; aborted: the client went away."""


class RequestMetrics:
    """The requests of one kind at one server.

    Attributes:
        waiting: arrived, and not accepted yet. running: accepted, and not over. finished: by outcome.
    """

    def __init__(self) -> None:
        self.received = self.waiting = self.running = 0
        self.finished: dict[Outcome, int] = dict.fromkeys(get_args(Outcome), 0)
        self.time_to_first_token = Histogram(TIME_TO_FIRST_TOKEN_BUCKETS)
        self.inter_token_latency = Histogram(INTER_TOKEN_LATENCY_BUCKETS)
        self.time_per_output_token = Histogram(INTER_TOKEN_LATENCY_BUCKETS)
        self.latency = Histogram(REQUEST_LATENCY_BUCKETS)
        self.queue_time = Histogram(REQUEST_LATENCY_BUCKETS)

    def arrived(self, now: float) -> RequestTimer:
        """Begin to time a request. Whoever does calls `RequestTimer.finish` in the end."""
        return RequestTimer(self, now)

    def add_to(self, families: Families, **labels: str) -> None:
        """Add everything to a scrape."""
        add, count = families.histogram, families.counter
        add(
            "time_to_first_token_seconds",
            "From a request's arrival to the first tokens of its answer",
            self.time_to_first_token,
            **labels,
        )
        add(
            "inter_token_latency_seconds",
            "From one piece of an answer to the next, each of one token or more",
            self.inter_token_latency,
            **labels,
        )
        add(
            "request_time_per_output_token_seconds",
            "Mean time per output token of a completed request, after its first tokens",
            self.time_per_output_token,
            **labels,
        )
        add(
            "e2e_request_latency_seconds",
            "From a request's arrival to the end of its complete answer",
            self.latency,
            **labels,
        )
        add(
            "request_queue_time_seconds",
            "From a request's arrival to its being accepted",
            self.queue_time,
            **labels,
        )
        count("requests_received", "Requests that arrived", self.received, **labels)
        for outcome, number in self.finished.items():
            count("requests_finished", "Requests that are over", number, **labels, outcome=outcome)
        families.gauge("requests_waiting", "Requests that are not accepted yet", self.waiting, **labels)
        families.gauge("requests_running", "Requests that are accepted and not over", self.running, **labels)


class RequestTimer:
    """The clock of one request: `accepted`, `output` for each piece of the answer, then `finish`."""

    __slots__ = ("_accepted", "_arrived", "_first", "_first_tokens", "_last", "_metrics", "_over", "_tokens")

    def __init__(self, metrics: RequestMetrics, now: float) -> None:
        metrics.received += 1
        metrics.waiting += 1
        self._metrics = metrics
        self._arrived = now
        self._first: float | None = None
        self._last = now
        self._first_tokens = self._tokens = 0
        self._accepted = self._over = False

    def accepted(self, now: float) -> None:
        """Note that the server has room for the request and has begun it."""
        if not self._over and not self._accepted:
            self._accepted = True
            self._metrics.waiting -= 1
            self._metrics.running += 1
            self._metrics.queue_time.observe(now - self._arrived)

    def output(self, tokens: int, now: float) -> None:
        """Note a piece of the answer. tokens: of the answer so far, this piece included; 0 where nobody counts them."""
        if self._first is None:
            self._first, self._first_tokens = now, tokens
            self._metrics.time_to_first_token.observe(now - self._arrived)
        else:
            self._metrics.inter_token_latency.observe(now - self._last)
        self._last, self._tokens = now, tokens

    def finish(self, outcome: Literal["completed", "failed", "aborted"], now: float) -> None:
        """Note the end of the request. The first call counts: others may follow and change nothing."""
        if self._over:
            return
        self._over = True
        metrics = self._metrics
        if self._accepted:
            metrics.running -= 1
        else:
            metrics.waiting -= 1
        metrics.finished["refused" if outcome == "failed" and not self._accepted else outcome] += 1
        if outcome != "completed":
            return
        metrics.latency.observe(now - self._arrived)
        later = self._tokens - self._first_tokens
        if self._first is not None and later > 0:
            metrics.time_per_output_token.observe((self._last - self._first) / later)
