"""A gateway, agents that reach it through emulated links, and the hand that breaks all of it to a plan."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from fault_clients import Crowd, Request
from fault_plan import GRACE_S, SECONDS, Fault, Happened, Kind
from harness import DRAFT, TARGET, Process, free_port, wait_until
from relay import Sent, messages_in

from bench.link.emulator import Emulator

N_SEQ: Final = 16
FLOOR: Final = ("--step-floor-ms", "40")
SERVE: Final = (
    *("--drain-timeout", "0", "--grace", str(GRACE_S), "--n-seq", str(N_SEQ), "--context", "1024", *FLOOR),
    *("--keep-alive", "3"),  # so that clients' idle connections do not count among what is left
)
KBIT: Final = 1e3


@dataclass(frozen=True)
class Held:
    """What a process has: descriptors, resident memory in MiB, and its own figures in /health."""

    files: int
    mib: float
    load: dict[str, int]


def held(process: Process) -> Held:
    """Of a gateway or an agent."""
    files = len(os.listdir(f"/proc/{process.pid}/fd"))
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    health: dict[str, Any] = httpx.get(f"{process.root}/health", timeout=10).json()
    load: dict[str, int] = health["load"] | {"lanes_free": (health.get("drafter") or {}).get("free", 0)}
    return Held(files, pages * os.sysconf("SC_PAGE_SIZE") / 2**20, load)


class Agent:
    """An agent's process, which may die, and its link.

    Args:
        gateway: port of what the link leads to.
        flags: of every life of the process.
    """

    def __init__(self, log_dir: Path, name: str, gateway: int, flags: Sequence[str], seed: int) -> None:
        self._log_dir, self._name = log_dir, name
        self._uploads: list[bytearray] = []
        self.link = Emulator(("127.0.0.1", gateway), seed=seed, tap=self._tap)
        config = log_dir / f"{name}.toml"
        config.write_text(f"[session]\ngrace_s = {GRACE_S}\n")
        self._flags = (
            *("--gateway", self.link.url, "--port", str(free_port()), "--drain-timeout", "0"),
            *("--mode", "collaborative", "--config", str(config), "--keep-alive", "3", *flags),
        )
        self._lives = 0
        self.process = self._start()

    @property
    def url(self) -> str:
        return self.process.url

    def sent(self) -> list[Sent]:
        """What it said to the gateway, and reached it, in all its lives."""
        return messages_in(self._uploads)

    def kill(self) -> None:
        """kill -9, and start it again on its port."""
        self.process.kill()
        self.process = self._start()

    def close(self) -> None:
        self.process.stop()
        self.link.close()

    def _start(self) -> Process:
        self._lives += 1
        log = self._log_dir / f"{self._name}-{self._lives}.log"
        return Process("pipesd_agent", "start", *self._flags, log=log)

    def _tap(self, connection: int, data: bytes) -> None:
        while len(self._uploads) <= connection:
            self._uploads.append(bytearray())
        self._uploads[connection] += data


class Gateway:
    """A gateway's process, which may die."""

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir
        self.port = free_port()
        self._lives = 0
        self.process = self._start()

    def kill(self) -> None:
        """kill -9, and start it again on its port."""
        self.process.kill()
        self.process = self._start()

    def _start(self) -> Process:
        self._lives += 1
        log = self._log_dir / f"gateway-{self._lives}.log"
        return Process("pipesd_gateway", "serve", "--model", str(TARGET), "--port", str(self.port), *SERVE, log=log)


class World:
    """Agents and what happens to them. `happened`: the faults so far."""

    def __init__(self, agents: Sequence[Agent], kill_gateway: Callable[[], None] | None = None) -> None:
        self.agents = agents
        self.happened: list[Happened] = []
        self._dead: list[Happened] = []
        """Agents' processes, while they were not there."""
        self._kill_gateway = kill_gateway

    def connected(self) -> None:
        """Wait until all agents have their gateway."""
        for agent in self.agents:
            wait_until(lambda root=agent.process.root: httpx.get(f"{root}/ready").status_code == 200, 20)  # type: ignore[misc]

    def killed(self, agent: int, began: float, ended: float) -> bool:
        """Was an agent's process dead at some time between these?"""
        return any(death.agent == agent and began < death.ended and death.began < ended for death in self._dead)

    async def live(self, crowd: Crowd, plan: Sequence[Fault], clients: int) -> list[Request]:
        """Let a plan happen while so many clients of each agent ask all the time; their requests."""
        for number, agent in enumerate(self.agents):
            crowd.join(number, agent.url, clients)
        await self._suffer(plan, crowd)
        await crowd.leave()
        return crowd.requests

    async def _suffer(self, plan: Sequence[Fault], crowd: Crowd) -> None:
        begin = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, fault in enumerate(plan):
                group.create_task(self._happen(number, fault, begin + fault.at, crowd))

    async def _happen(self, number: int, fault: Fault, at: float, crowd: Crowd) -> None:
        await asyncio.sleep(at - time.monotonic())
        began = time.monotonic()
        if fault.agent is None:
            assert self._kill_gateway is not None
            await asyncio.to_thread(self._kill_gateway)
        else:
            agent = self.agents[fault.agent]
            match fault.kind:
                case Kind.VANISH:
                    crowd.vanish(fault.agent, agent.url, number)
                case Kind.SLOW:
                    crowd.slow(fault.agent, agent.url, number)
                case _:
                    await self._happen_to(agent, fault.kind)
        happened = Happened(fault.kind, fault.agent, began, time.monotonic())
        self.happened.append(happened)
        if fault.kind is Kind.KILL_AGENT:
            self._dead.append(happened)

    async def _happen_to(self, agent: Agent, kind: Kind) -> None:
        await asyncio.to_thread(_begin(agent, kind))
        if kind in SECONDS:
            await asyncio.sleep(SECONDS[kind])
            await asyncio.to_thread(agent.link.normal)


def _begin(agent: Agent, kind: Kind) -> Callable[[], object]:
    link = agent.link
    match kind:
        case Kind.RESET:
            return link.reset
        case Kind.CUT:
            return link.cut
        case Kind.SLICE:
            return lambda: link.slice(7, 0.005)
        case Kind.HANG:
            return link.hang
        case Kind.HALF_OPEN_AGENT:
            return lambda: link.half_open("client")
        case Kind.HALF_OPEN_GATEWAY:
            return lambda: link.half_open("server")
        case Kind.THROTTLE:
            return lambda: link.throttle(KBIT)
        case Kind.REFUSE | Kind.GONE:
            return lambda: [do() for do in (link.refuse, link.reset)]
        case Kind.KILL_AGENT:
            return agent.kill
    raise AssertionError(kind)


@contextmanager
def world(log_dir: Path, seed: int) -> Iterator[tuple[World, Gateway]]:
    """A gateway and three agents: two that draft, by a model, which goes on alone when the cloud is gone, and by prompt
    lookup, and one that is cloud-only."""
    drafting = ("--draft-model", str(DRAFT), "--capacity", "8", "--context", "1024", "--fallback", "edge")
    kinds: tuple[tuple[str, ...], ...] = (drafting, ("--capacity", "8"), ("--mode", "cloud"))
    with ExitStack() as stack:
        gateway = Gateway(log_dir)
        stack.callback(lambda: gateway.process.stop())
        agents = []
        for number, flags in enumerate(kinds):
            agents.append(Agent(log_dir, f"agent{number}", gateway.port, flags, seed + number))
            stack.callback(agents[-1].close)
        yield World(agents, gateway.kill), gateway
