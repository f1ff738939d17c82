"""The real parts of a cell: gateway and agent as processes, the emulator between them, and one request at a time."""

from __future__ import annotations

import http.client
import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from bench.link.emulator import Emulator
from bench.link.lane import Step, Way
from bench.proving.real.asking import PLACES, configuration, figures_of
from bench.proving.simulator.figures import Figures
from bench.proving.simulator.scenario import Scenario
from bench.proving.simulator.simulation import Ours
from bench.proving.traces.recorded import CONTEXT, TARGET
from examples.demo.programs import record_of, running
from pipesd_core.protocol.messages import Endpoint

ANSWER_S: Final = 120.0
PATHS: Final = {Endpoint.CHAT_COMPLETIONS: "/v1/chat/completions", Endpoint.COMPLETIONS: "/v1/completions"}


@contextmanager
def gateway(folder: Path, step_s: float) -> Iterator[str]:
    """A gateway with the demo target, whose steps take so long; gives its URL."""
    flags = ("--port", "0", "--n-seq", str(PLACES), "--context", str(CONTEXT), "--drain-timeout", "0")
    model = ("--model", str(TARGET), "--step-floor-ms", f"{1000 * step_s:g}")
    with running("pipesd_gateway", str(folder), "serve", *model, *flags) as (url, _):
        yield url


class Stack:
    """A running cell. All times in seconds; `ask` blocks."""

    def __init__(self, agent_url: str, emulator: Emulator) -> None:
        self._url = agent_url
        self._emulator = emulator
        self._began = time.monotonic()
        self._numbers = itertools.count()

    @property
    def now(self) -> float:
        """Since the link began."""
        return time.monotonic() - self._began

    def ask(self, endpoint: Endpoint, body: bytes) -> tuple[Figures, list[int]]:
        """(what the agent says that it did and what went over the link, output ids) of a streamed request.

        Seconds are the agent's, from the request to the answer's last byte on its way to the client.
        """
        request_id = f"real-{next(self._numbers)}"
        up, down = self._emulator.bytes
        where = urlsplit(self._url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=ANSWER_S)
        try:
            headers = {"content-type": "application/json", "x-request-id": request_id}
            connection.request("POST", PATHS[endpoint], body, headers)
            response = connection.getresponse()
            said = response.read()
        finally:
            connection.close()
        if response.status != http.client.OK or b"[DONE]" not in said:
            raise RuntimeError(f"the agent answered {response.status}: {said[-300:].decode(errors='replace')}")
        record = record_of(self._url, request_id)
        after_up, after_down = self._emulator.bytes
        return figures_of(record, after_up - up, after_down - down), [token for token, _ in record["tokens"]]


@contextmanager
def stack(
    folder: Path, gateway_url: str, scenario: Scenario, ours: Ours, trace: Path | None = None, *, auto: bool = False
) -> Iterator[Stack]:
    """The link and an agent of its own to a running gateway."""
    where = urlsplit(gateway_url)
    up, down = (Way(rate.at(0.0), scenario.delay_s) for rate in (scenario.up, scenario.down))
    with Emulator((where.hostname or "", where.port or 0), up, down) as emulator:
        config = folder / "agent.toml"
        config.write_text(configuration(emulator.url, ours, trace, auto=auto))
        floor_ms = f"{1000 * scenario.draft_s:g}"
        with running("bench.proving.real.slow_agent", str(folder), floor_ms, str(config)) as (url, _):
            made = Stack(url, emulator)
            if len(scenario.up.steps) > 1:
                rates = zip(scenario.up.steps, scenario.down.steps, strict=True)
                emulator.play(Step(scenario.up.period_s, *both) for both in rates)
            yield made
