"""One block of bench/vllm: clients of one kind against one server, and the figures of its steady part."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.vllm.clients import Answer, Link, Round, Session, request, stream
from bench.vllm.numbers import shared
from bench.vllm.servers import Server, Usage

MS: Final = 1000.0

Figures = dict[str, float]
"""By name: *_ms milliseconds, others counts or shares."""


@dataclass(frozen=True)
class Scripted:
    """Sessions with drafts. together: all NAVs are sent when all verdicts are there, so that steps are full; otherwise
    each session goes on as soon as it can. one_link: all sessions over one connection, as of one agent."""

    drafts: int
    rate: float
    together: bool = False
    one_link: bool = False


class _Window:
    """The steady part: everybody has begun, nobody has finished."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.begin = self.end = 0.0

    def open(self) -> None:
        self._before = self._server.usage()
        self.begin = time.monotonic()

    def close(self) -> None:
        self.end = time.monotonic()
        self.usage: Usage = self._server.usage() - self._before


async def ordinary(
    server: Server, bodies: Sequence[dict[str, Any]], port: int | None = None
) -> tuple[Figures, list[Answer]]:
    """Streams at the same time. port: of the agent that they go through, if any; then it is not the steady part that is
    measured but all of it, because an agent's clients begin and end one by one."""
    answers = [Answer() for _ in bodies]
    tasks = [
        asyncio.create_task(stream(port or server.port, body, answer))
        for body, answer in zip(bodies, answers, strict=True)
    ]
    window = _Window(server)
    try:
        if port is None:
            await asyncio.gather(*(answer.first.wait() for answer in answers))
        window.open()
        await asyncio.wait(tasks, return_when=asyncio.ALL_COMPLETED if port else asyncio.FIRST_COMPLETED)
        window.close()
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    inside = [[(at, n) for at, n in answer.arrivals if window.begin < at <= window.end] for answer in answers]
    tokens = sum(n for pieces in inside for _, n in pieces)
    figures = _figures(server, window, tokens, len(bodies))
    # Not the median of single gaps: a busy client finds several tokens at once.
    paces = [(pieces[-1][0] - pieces[0][0]) / sum(n for _, n in pieces[1:]) for pieces in inside if len(pieces) > 1]
    if paces:
        figures["pace_ms"] = MS * float(np.median(paces))
    return figures, answers


async def scripted(
    server: Server, prompts: Sequence[str], truths: Sequence[Sequence[int]], tokens: int, how: Scripted, seed: int
) -> Figures:
    """Sessions at the same time."""
    async with AsyncExitStack() as stack:
        links = [await stack.enter_async_context(Link(server.port)) for _ in (prompts[:1] if how.one_link else prompts)]
        sessions = [
            links[number % len(links)].session(truth, seed * 1000 + number) for number, truth in enumerate(truths)
        ]
        await asyncio.gather(
            *(session.open(request(prompt, tokens)) for session, prompt in zip(sessions, prompts, strict=True))
        )
        window = _Window(server)
        window.open()
        await (_together if how.together else _each)(sessions, how)
        window.close()
        for session in sessions:
            await session.close()
    rounds = [round_ for session in sessions for round_ in session.rounds if window.begin < round_.sent]
    figures = _figures(server, window, sum(round_.tokens for round_ in rounds), len(prompts))
    if not figures or not rounds:
        return figures
    verified = sum(round_.verified for round_ in rounds)
    figures |= _times(rounds, server.steps(window.begin, window.end)) | {
        "rounds": len(rounds),
        "accepted": sum(round_.accepted for round_ in rounds) / max(verified, 1),
        "api_cpu_round_ms": MS * window.usage.api / len(rounds),
    }
    return figures


def _times(rounds: Sequence[Round], steps: NDArray[Any]) -> Figures:
    """Where the time of a round goes: forward_us, what else the engine core was in a step for, and the rest."""
    sent, came, forward, queue = np.array([(r.sent, r.came, r.forward, r.queue) for r in rounds]).T
    stepping = shared(sent, came, steps["start"], steps["start"] + steps["wall"])
    return {
        "round_ms": MS * float(np.median(came - sent)),
        "forward_ms": MS * float(np.median(forward)),
        "others_ms": MS * float(np.median((stepping - forward).clip(min=0.0))),
        "outside_ms": MS * float(np.median(came - sent - stepping)),
        "queue_ms": MS * float(np.median(queue)),
    }


def _room(sessions: Sequence[Session], how: Scripted) -> bool:
    return all(session.left() > how.drafts + 1 for session in sessions)


async def _together(sessions: Sequence[Session], how: Scripted) -> None:
    while _room(sessions, how):
        await asyncio.gather(*(session.round(how.drafts, how.rate) for session in sessions))


async def _each(sessions: Sequence[Session], how: Scripted) -> None:
    async def run(session: Session) -> None:
        while _room(sessions, how):  # the first that is at its end ends the block
            await session.round(how.drafts, how.rate)

    async with asyncio.TaskGroup() as group:
        for session in sessions:
            group.create_task(run(session))


def _figures(server: Server, window: _Window, tokens: int, clients: int) -> Figures:
    """What the engine did. `step_*`: medians of the full steps, those with every client and as many drafts for each as
    most steps have. A figure that there is nothing for is left out: a busy machine can starve the clients."""
    steps = server.steps(window.begin, window.end)
    calls = server.calls(window.begin, window.end)
    if not len(steps) or not tokens:
        return {}
    worker, parts = _worker(steps, calls)
    work = steps["cpu"] - steps["waited_cpu"] + worker
    everybody = steps["requests"] == clients
    rows = np.bincount(steps["drafts"][everybody]).argmax() if everybody.any() else 0
    full = everybody & (steps["drafts"] == rows) & (steps["tokens"] == rows + clients)
    figures: Figures = {
        "seconds": window.end - window.begin,
        "tokens": tokens,
        "steps": len(steps),
        "full_steps": int(full.sum()),
        "drafts_per_step": float(rows),
        "clients_per_step": float(steps["requests"].mean()),
        "steps_per_token": len(steps) / tokens,
        "busy_ms_per_token": MS * float(steps["wall"].sum()) / tokens,
        "work_ms_per_token": MS * float(work.sum()) / tokens,
        "api_cpu_ms_per_token": MS * window.usage.api / tokens,
        "all_cpu_ms_per_token": MS * window.usage.total / tokens,
        "wall_ms_per_token": MS * (window.end - window.begin) / tokens,
    }
    if full.any():
        figures |= {
            "step_ms": MS * float(np.median(steps["wall"][full])),
            "step_work_ms": MS * float(np.median(work[full])),
            "core_work_ms": MS * float(np.median((steps["cpu"] - steps["waited_cpu"])[full])),
            "worker_ms": MS * float(np.median(worker[full])),
            "calls": float(np.median(steps["calls"][full])),
            **{f"{name}_ms": MS * float(np.median(steps[name][full])) for name in ("schedule", "update", "post")},
            **{f"worker_{name}_ms": MS * float(np.median(part[full])) for name, part in parts.items()},
        }
    return figures


def _worker(steps: NDArray[Any], calls: NDArray[Any]) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    """CPU seconds that the worker spent on each step: in all, and by kind of call."""
    place = np.searchsorted(steps["start"], calls["start"], side="right") - 1
    inside = place >= 0
    place, calls = place[inside], calls[inside]
    names = ("execute", "sample", "drafts", "other")
    parts = {
        name: np.bincount(place, calls["cpu"] * (calls["which"] == which), len(steps))
        for which, name in enumerate(names)
    }
    return np.bincount(place, calls["cpu"], len(steps)), parts
