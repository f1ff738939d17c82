"""Where the CPU time of the real pair goes: the target's forwards, the draft's, and all the rest of both programs.

    .venv/bin/python -m bench.real_cpu [--draft FILE.gguf] [--each 3] [--tokens 64]

Gateway and agent run as processes; SmolLM2 (F16, `make smollm2`) answers the shortest prompts of each kind, one after
the other, at T = 0 and T = 0.8. CPU time is that of threads (/proc, Linux only): in each program the busiest one
computes the model. What that thread does beside llama.cpp's forwards (masks, noise, argmax over 49,152 logits) is
measured in this process, on the same prompts, and counted with the rest. The aim: the rest takes under 8 % of all.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from openai import OpenAI

from bench.cpu_time import cpu_s
from bench.proving.traces.record import answers, info_of
from bench.proving.traces.recorded import PAIRS
from bench.proving.traces.workloads import Work, shortest
from examples.demo.programs import running
from pipesd_core.llamacpp.binding import Context
from pipesd_core.llamacpp.openai.prompt import Prompter
from pipesd_core.llamacpp.openai.request import parse
from pipesd_core.llamacpp.runtime.decoder import TargetDecoder

REAL: Final = PAIRS["real"]
SEED: Final = 7
CONTEXT: Final = 2048
ANSWER_S: Final = 300.0


@dataclass(frozen=True)
class Threads:
    """CPU seconds of a process's threads so far, by thread id."""

    seconds: dict[int, float]

    @classmethod
    def of(cls, pid: int) -> Threads:
        return cls({int(task.name): cpu_s(task / "stat") for task in Path(f"/proc/{pid}/task").iterdir()})

    def since(self, before: Threads) -> tuple[float, float]:
        """(seconds of the busiest thread, of all others) since then."""
        spent = sorted(seconds - before.seconds.get(thread, 0.0) for thread, seconds in self.seconds.items())
        return spent[-1], sum(spent[:-1])


def ask(client: OpenAI, works: Sequence[Work], temperature: float, tokens: int) -> int:
    """Streamed answers, one after the other; gives the output tokens of all."""
    total = 0
    for work in works:
        request: dict[str, Any] = work.ask | {"model": "default", "max_tokens": tokens, "temperature": temperature}
        chunks = client.chat.completions.create(
            **request, seed=SEED, stream=True, stream_options={"include_usage": True}
        )
        total += sum(chunk.usage.completion_tokens for chunk in chunks if chunk.usage)
    return total


async def beside_forwards(works: Sequence[Work], temperature: float, tokens: int) -> float:
    """Share of the engine thread's CPU time that is no forward of llama.cpp."""
    forwards = 0.0
    decode = Context.decode

    def timed(context: Context, *arguments: Any, **named: Any) -> Any:
        nonlocal forwards
        began = time.thread_time()
        try:
            return decode(context, *arguments, **named)
        finally:
            forwards += time.thread_time() - began

    decoder = TargetDecoder(REAL.target, n_seq=1, n_ctx_seq=CONTEXT, max_queue=len(works))
    try:
        prompter = Prompter(decoder.model, info_of(decoder))
        openings = [
            prompter.opening(parse(work.endpoint, work.body(temperature=temperature, seed=SEED, max_tokens=tokens)))
            for work in works
        ]
        with patch.object(Context, "decode", timed):
            began = time.process_time()
            await answers(decoder, openings)
            return 1 - forwards / (time.process_time() - began)
    finally:
        await decoder.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draft", type=Path, help="a draft model; without one: prompt lookup")
    parser.add_argument("--each", type=int, default=3, help="prompts of each kind (%(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer (%(default)s)")
    args = parser.parse_args()
    works = shortest(args.each)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pipesd-real-cpu-"))
        serve = ("serve", "--model", str(REAL.target), "--port", "0")
        gateway_url, gateway = stack.enter_context(running("pipesd_gateway", folder, *serve))
        start = ["start", "--gateway", gateway_url.removesuffix("/v1"), "--mode", "collaborative", "--port", "0"]
        start += ["--draft-model", str(args.draft)] if args.draft else []
        agent_url, agent = stack.enter_context(running("pipesd_agent", folder, *start))
        client = OpenAI(base_url=agent_url, api_key="none", timeout=ANSWER_S, max_retries=0)
        ask(client, works[:1], 0.0, args.tokens)  # first pages of the models, imports
        for temperature in REAL.temperatures:
            before = Threads.of(gateway), Threads.of(agent)
            tokens = ask(client, works, temperature, args.tokens)
            engine, serving = Threads.of(gateway).since(before[0])
            draft, edge = Threads.of(agent).since(before[1])
            if args.draft is None:
                draft, edge = 0.0, edge + draft
            share = asyncio.run(beside_forwards(works, temperature, args.tokens))
            parts = {
                "target's forwards": engine * (1 - share),
                "draft's forwards": draft,
                "engine's thread beside them": engine * share,
                "gateway, other threads": serving,
                "agent, other threads": edge,
            }
            total = sum(parts.values())
            print(f"T={temperature:g}, {len(works)} answers, {tokens} tokens, {total:.1f} CPU s")
            for name, seconds in parts.items():
                print(f"  {name:30}{1000 * seconds / tokens:8.2f} ms a token {100 * seconds / total:6.1f} %")
            rest = total - parts["target's forwards"] - parts["draft's forwards"]
            print(
                f"  {'neither target nor draft':30}{1000 * rest / tokens:8.2f} ms a token {100 * rest / total:6.1f} %"
            )


if __name__ == "__main__":
    main()
