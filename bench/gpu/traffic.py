"""Ordinary requests on stock vLLM and on a server with the plugin, both on model runner V2: throughput and TPOT.

Both servers are up at once; a pair is the same streams on one and then on the other, in an order drawn anew. A ratio is
the plugin's median over stock's; its 95 % interval is a bootstrap over pairs (`bench.vllm.numbers`).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.gpu.part import FIGURES, SECONDS, write_figures
from bench.vllm.clients import Answer, request, stream
from bench.vllm.numbers import Estimate, estimate
from bench.vllm.servers import KEY, MODEL, ServerProcess, free_port

STREAMS: Final = (1, 8, 32, 128)
TOKENS: Final = 128
STOCK: Final = "stock"
PLUGIN: Final = "plugin"
PAIR_S: Final = 120.0
"""A block that takes longer has failed."""
WARM_UP: Final = 1
"""Pairs of each number of streams that are not counted."""
STOP_S: Final = 8.0
UNITS: Final = {"tokens_per_s": "tokens/s", "tpot_ms": "ms TPOT"}
_OPENING: Final = (
    "Explain to a new colleague how a compiler turns source code into a program.",
    "Write a letter to the city council about the old bridge by the mill.",
    "def merge_sorted(left, right):",
    "List the stages of a river from its spring to the sea.",
)

Samples = dict[int, dict[str, list[dict[str, float]]]]
"""By number of streams and server: the figures of each pair."""


def figures(answers: Sequence[Answer], began: float) -> dict[str, float]:
    """Of streams that began at once: tokens of all per second, and the median of their TPOT, in milliseconds.

    TPOT is the time per token after the first piece that came. Raises ValueError for an answer without any.
    """
    paces = []
    for answer in answers:
        if not answer.arrivals:
            raise ValueError("an answer has no tokens")
        (first, n), (last, _) = answer.arrivals[0], answer.arrivals[-1]
        if len(answer.ids) > n:
            paces.append((last - first) / (len(answer.ids) - n))
    end = max(answer.arrivals[-1][0] for answer in answers)
    tokens = sum(len(answer.ids) for answer in answers)
    return {"tokens_per_s": tokens / (end - began), "tpot_ms": 1000.0 * float(np.median(paces)) if paces else 0.0}


async def block(port: int, streams: int, tokens: int) -> dict[str, float]:
    """Streams at the same time, each with a prompt of its own, and their figures."""
    answers = [Answer() for _ in range(streams)]
    bodies = [request(f"{number}. {_OPENING[number % len(_OPENING)]}", tokens) for number in range(streams)]
    began = time.monotonic()
    async with asyncio.timeout(PAIR_S):
        async with asyncio.TaskGroup() as group:
            for body, answer in zip(bodies, answers, strict=True):
                group.create_task(stream(port, body, answer))
    return figures(answers, began)


def command(kind: str, model: str, dtype: str, port: int, streams: int, extra: Sequence[str]) -> list[str]:
    """The command line of a server."""
    program = {
        STOCK: [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model],
        PLUGIN: [str(Path(sys.executable).with_name("pipesd-vllm")), "serve", model, "--runner", "v2"],
    }
    flags = {
        "served-model-name": MODEL,
        "host": "127.0.0.1",
        "port": str(port),
        "api-key": KEY,
        "dtype": dtype,
        "max-model-len": "1024",
        "max-num-seqs": str(max(streams, 8)),
    }
    return [*program[kind], *(part for name, value in flags.items() for part in (f"--{name}", value)), *extra]


def environ(kind: str) -> dict[str, str]:
    """What a server gets besides; stock vLLM has no plugins, ours included."""
    common = {"VLLM_USE_V2_MODEL_RUNNER": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    return common | ({"VLLM_PLUGINS": ""} if kind == STOCK else {})


def compared(samples: Samples) -> dict[str, Any]:
    """Medians and ratios for each number of streams that has a pair, and the lines that say them."""
    rows: dict[str, Any] = {}
    lines = []
    for streams, of_server in samples.items():
        n = min(len(of_server[STOCK]), len(of_server[PLUGIN]))
        if not n:
            continue
        row: dict[str, Any] = {"pairs": n}
        text = f"{streams:4} streams, {n:2} pairs:"
        for name, unit in UNITS.items():
            of = {kind: [one[name] for one in of_server[kind][:n]] for kind in (STOCK, PLUGIN)}
            stock, plugin = estimate(of[STOCK]), estimate(of[PLUGIN])
            ratio = estimate(of[PLUGIN], of[STOCK]) if stock.low > 0 else Estimate(*[float("nan")] * 3)
            row |= {name: {"stock": asdict(stock), "plugin": asdict(plugin), "ratio": asdict(ratio)}}
            text += f"  {unit} {stock.median:.2f} -> {plugin.median:.2f}, x {ratio}"
        rows[str(streams)] = row
        lines.append(text)
    return {"streams": rows, "lines": lines, "samples": samples}


async def measure(
    ports: Mapping[str, int], streams: Sequence[int], tokens: int, until: float, pairs: int, samples: Samples
) -> None:
    """Pairs of all numbers of streams in turn, until so many are there or the time is over.

    Writes all figures so far after each turn.
    """
    order = random.Random(0)
    for turn in range(pairs + WARM_UP):
        for number in streams:
            if time.monotonic() > until:
                return
            found = {}
            for kind in order.sample(list(ports), len(ports)):
                found[kind] = await block(ports[kind], number, tokens)
            if turn >= WARM_UP:
                for kind, one in found.items():
                    samples[number][kind].append(one)
        write_figures(compared(samples))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--streams", type=int, nargs="+", default=list(STREAMS))
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--pairs", type=int, default=40, help="at most; the time may allow fewer")
    args, extra = parser.parse_known_args()
    until = time.monotonic() + float(os.environ[SECONDS])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an orderly end: the servers have to go too
    samples: Samples = {number: {STOCK: [], PLUGIN: []} for number in args.streams}
    with ExitStack() as stack:
        folder = Path(os.environ[FIGURES]).parent
        servers = {}
        for kind in (STOCK, PLUGIN):
            port = free_port()
            line = command(kind, args.model, args.dtype, port, max(args.streams), extra)
            servers[kind] = server = ServerProcess(kind, line, environ(kind), port, folder)
            stack.callback(server.stop, STOP_S)
        for server in servers.values():
            server.ready(until - time.monotonic())
        ports = {kind: server.port for kind, server in servers.items()}
        asyncio.run(measure(ports, args.streams, args.tokens, until - 2 * STOP_S, args.pairs, samples))
    counted = [len(of_server[PLUGIN]) for of_server in samples.values()]
    if not all(counted):
        raise SystemExit(f"no pair for some number of streams: {dict(zip(samples, counted, strict=True))}")
    print(
        f"{min(counted)} to {max(counted)} pairs of each number of streams, {args.tokens} tokens a stream, {args.dtype}"
    )


if __name__ == "__main__":
    main()
