"""Run under .venv-vllm's python, on the bed, by test_vllm_v2.py: on V2 the tokens of a session, whose drafts are partly
wrong, are those of an ordinary request with the same parameters; so are those of the ordinary requests beside it.

PIPESD_V2_LONG: every kind of request with every prompt, several times.
"""

from __future__ import annotations

import os
import random
from typing import Any

import favour
from in_process import PROMPTS, core, runner
from scripted_edges import ScriptedEdge, drive, plugin_engine
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

from pipesd_vllm.compat.verifier import Verifier

LONG = bool(os.environ.get("PIPESD_V2_LONG"))
LENGTH = 48 if LONG else 24
TRIALS = 5 if LONG else 1
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "ok": {"type": "boolean"},
    },
    "required": ["name", "age", "ok"],
    "additionalProperties": False,
}
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "T=0.8": {"temperature": 0.8, "seed": 7},
    "top-p, top-k": {"temperature": 1.0, "seed": -3, "top_p": 0.9, "top_k": 50, "logprobs": 3},
    "min_p": {"temperature": 0.9, "seed": 2**40 + 11, "min_p": 0.05},
    "min_p, hot": {"temperature": 2.0, "seed": 12, "min_p": 0.1, "logprobs": 2},
    "logit_bias": {"temperature": 0.8, "seed": 11, "logit_bias": {300: 4.0, 16: -5.0, 268: 1.5}},
    "logit_bias, greedy": {"temperature": 0, "logit_bias": {18: 3.0}},
    "penalties": {
        "temperature": 0.8,
        "seed": 11,
        "repetition_penalty": 1.3,
        "frequency_penalty": 0.7,
        "presence_penalty": 0.4,
    },
    "penalties, greedy": {"temperature": 0, "repetition_penalty": 1.2, "frequency_penalty": 0.5},
    "bad_words": {"temperature": 0, "bad_words": ["the", " a", "quick brown", " there was"]},
    "min_tokens": {"temperature": 0.8, "seed": 3, "min_tokens": 12},
    "allowed ids": {"temperature": 0.8, "seed": 3, "allowed_token_ids": list(range(260, 900))},
    "schema": {"temperature": 0.9, "seed": 4, "structured_outputs": StructuredOutputsParams(json=SCHEMA)},
    "schema, greedy": {"temperature": 0, "structured_outputs": StructuredOutputsParams(json=SCHEMA)},
    "choice": {"temperature": 0.9, "seed": 5, "structured_outputs": StructuredOutputsParams(choice=["yes", "maybe"])},
    "custom processor": {"temperature": 0.9, "seed": 8, "extra_args": {favour.ARGUMENT: 6.0}},
    "custom processor, greedy": {"temperature": 0, "extra_args": {favour.ARGUMENT: 9.0}},
    "all at once": {
        "temperature": 1.2,
        "seed": 9,
        "min_p": 0.02,
        "logit_bias": {300: 2.0},
        "presence_penalty": 0.5,
        "bad_words": [" the"],
        "extra_args": {favour.ARGUMENT: 3.0},
    },
}


def run(llm: Any, names: list[str], prompts: list[str], rng: random.Random) -> tuple[int, int]:
    """Sessions and ordinary requests of these kinds in the same steps. Returns (drafts, accepted ones)."""
    params = [SamplingParams(max_tokens=LENGTH, **KINDS[name]) for name in names]
    # A few at a time: here vLLM preempts nobody.
    outputs = [llm.generate([p], [q.clone()], use_tqdm=False)[0] for p, q in zip(prompts, params, strict=True)]
    expected = [list(output.outputs[0].token_ids) for output in outputs]
    edges = [
        ScriptedEdge(llm, name, prompt, one, tokens, rng, rng.choice((0.0, 0.2, 0.2, 0.5)))
        for name, prompt, one, tokens in zip(names, prompts, params, expected, strict=True)
    ]
    ordinary: dict[str, int] = {}
    got: dict[str, list[int]] = {}

    def on_step(step: int) -> None:
        if step % 3 == 0 and len(ordinary) < len(names):
            one = rng.randrange(len(names))
            ordinary[f"ordinary {step}"] = one
            cumulative = params[one].clone()
            cumulative.output_kind = RequestOutputKind.CUMULATIVE
            llm.llm_engine.add_request(f"ordinary {step}", prompts[one], cumulative)

    def on_output(output: Any) -> None:
        got[output.request_id] = list(output.outputs[0].token_ids)

    drive(llm, edges, rng, on_step, on_output)
    while llm.llm_engine.has_unfinished_requests():
        for output in llm.llm_engine.step():
            on_output(output)
    for edge, output in zip(edges, outputs, strict=True):
        assert edge.tokens == edge.reference, (edge.name, edge.tokens, edge.reference)
        assert edge.output.outputs[0].finish_reason == output.outputs[0].finish_reason, edge.name
        assert_same_logprobs(edge.name, edge.output.outputs[0].logprobs, output.outputs[0].logprobs)
    for request, one in ordinary.items():
        assert got[request] == expected[one], (request, names[one])
    return sum(edge.drafted for edge in edges), sum(edge.accepted for edge in edges)


def assert_same_logprobs(name: str, ours: Any, theirs: Any) -> None:
    assert (ours is None) == (theirs is None), name
    for a, b in zip(ours or (), theirs or (), strict=True):
        assert list(a) == list(b), name
        for token in a:
            assert a[token].rank == b[token].rank, name
            assert abs(a[token].logprob - b[token].logprob) < 1e-4, name


def main() -> None:
    llm = plugin_engine(max_num_seqs=64, logits_processors=[favour.Favour])
    assert type(runner(llm).rejection_sampler) is Verifier
    rng = random.Random(5)
    drafted = accepted = 0
    names = list(KINDS)
    for trial in range(TRIALS * len(PROMPTS) if LONG else 1):
        prompts = [PROMPTS[(number + trial) % len(PROMPTS)] for number in range(len(names))]
        more, right = run(llm, names, prompts, rng)
        drafted, accepted = drafted + more, accepted + right
    assert 0 < accepted < drafted, "drafts were right, and wrong"
    figures = core(llm).scheduler.pipesd_stats()
    assert (figures["sessions"], figures["parked"]) == (0, 0), figures
    loop = "asynchronous" if core(llm).async_scheduling else "synchronous"
    print(f"{len(names)} kinds of requests, {accepted} of {drafted} drafts accepted, loop {loop}: equal")


if __name__ == "__main__":
    main()
