"""Sessions of an engine in this process, whose drafts are scripted: the answer's next tokens, some of them wrong."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from in_process import core, engine

from pipesd_core.engine.rounds import Round
from pipesd_vllm import cli, park_keys, plugin
from pipesd_vllm.runner_choice import V2

MOST_DRAFTS = 8
STEPS = 5000
"""Most steps of a run: what takes more stands still."""


def plugin_options(most_drafts: int = MOST_DRAFTS) -> dict[str, Any]:
    """What `pipesd-vllm serve` tells vLLM on V2."""
    arguments = cli.server_arguments("", ["--max-drafts", str(most_drafts)], V2)
    return {
        "scheduler_cls": arguments[arguments.index("--scheduler-cls") + 1],
        "speculative_config": json.loads(arguments[arguments.index("--speculative-config") + 1]),
    }


def plugin_engine(most_drafts: int = MOST_DRAFTS, **options: Any) -> Any:
    """An engine with the plugin, as `pipesd-vllm serve` configures it on V2."""
    plugin.register()
    return engine(**plugin_options(most_drafts), **options)


class ScriptedEdge:
    """One session. Its drafts are the reference's next tokens, each of them wrong with the probability `wrong`.

    Args:
        reference: token ids of the answer of an ordinary request with these parameters.
        aheads: how far the target is to run ahead in a round, one of them at random.
        counts: how many drafts a round has, one of them at random.
    """

    def __init__(
        self,
        llm: Any,
        name: str,
        prompt: str,
        params: Any,
        reference: Sequence[int],
        rng: random.Random,
        wrong: float = 0.2,
        aheads: Sequence[int] = (0, 0, 1, 3),
        counts: Sequence[int] = (0, 1, 3, 5, MOST_DRAFTS),
    ) -> None:
        from vllm.sampling_params import RequestOutputKind

        self.name, self.reference = name, list(reference)
        self._scheduler = core(llm).scheduler
        self._rng, self._wrong, self._aheads, self._counts = rng, wrong, aheads, counts
        self._key = park_keys.new_key()
        ahead = rng.choice(aheads)
        params = params.clone()
        params.extra_args = (params.extra_args or {}) | {park_keys.KEY_ARG: self._key, park_keys.AHEAD_ARG: ahead}
        params.output_kind = RequestOutputKind.CUMULATIVE
        self.tokens: list[int] = []
        self.output: Any = None
        self.round = Round((), ahead)
        self.rounds = self.drafted = self.accepted = 0
        llm.llm_engine.add_request(name, prompt, params)

    @property
    def done(self) -> bool:
        return self.output is not None and bool(self.output.finished)

    @property
    def waits(self) -> bool:
        """Whether its round is over: it may order the next one."""
        return not self.done and self.round.over

    def take(self, output: Any) -> None:
        """Take an output of the engine, which has all tokens so far."""
        ids = list(output.outputs[0].token_ids)
        for decided in self.round.take(ids[len(self.tokens) :]):
            self.drafted += decided.verified
            self.accepted += decided.accepted
        self.tokens, self.output = ids, output

    def order(self) -> None:
        """Order the next round."""
        n = self._rng.choice(self._counts)
        right = self.reference[len(self.tokens) : len(self.tokens) + n]
        drafts = [self._rng.randrange(5, 4000) if self._rng.random() < self._wrong else token for token in right]
        ahead = self._rng.choice(self._aheads)
        (answer,) = self._scheduler.verify([(self._key, drafts, ahead, time.monotonic())])
        assert answer == "ok", f"{self.name}: {answer}"
        self.round = Round(drafts, ahead)
        self.rounds += 1


def drive(
    llm: Any,
    edges: Iterable[ScriptedEdge],
    rng: random.Random,
    on_step: Callable[[int], None] = lambda _: None,
    on_output: Callable[[Any], None] = lambda _: None,
) -> int:
    """Step until every session has its answer; returns how many steps it took.

    Args:
        on_step: called before each step with its number.
        on_output: gets the outputs of all that is no session.
    """
    by_name = {edge.name: edge for edge in edges}
    for step in range(STEPS):
        if all(edge.done for edge in by_name.values()):
            return step
        for edge in by_name.values():
            if edge.waits and rng.random() < 0.7:
                edge.order()
        on_step(step)
        for output in llm.llm_engine.step():
            edge_of = by_name.get(output.request_id)
            if edge_of is None:
                on_output(output)
            else:
                edge_of.take(output)
    left = {edge.name: (len(edge.tokens), edge.round.over) for edge in by_name.values() if not edge.done}
    raise AssertionError(f"stands still: {left}, {core(llm).scheduler.pipesd_stats()}")
