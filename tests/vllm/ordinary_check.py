"""Run under .venv-vllm's python by test_vllm_bed.py: what ordinary requests get, without our plugin, as JSON.

Greedy ones, since V1 and V2 draw by different noise.
"""

from __future__ import annotations

import json
from typing import Any

from in_process import PROMPTS, engine, runner
from vllm.sampling_params import SamplingParams, StructuredOutputsParams

LENGTH = 32
KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"logprobs": 3},
    {"logit_bias": {300: 5.0, 5: -10.0}},
    {"repetition_penalty": 1.3, "frequency_penalty": 0.5, "presence_penalty": 0.5},
    {"bad_words": ["the", " a", "quick brown"]},
    {"min_tokens": 20, "allowed_token_ids": list(range(260, 900))},
    {"structured_outputs": StructuredOutputsParams(choice=["yes", "maybe", "certainly not"])},
)


def main() -> None:
    llm = engine()
    prompts = [PROMPTS[number % len(PROMPTS)] for number in range(len(KINDS))]
    params = [SamplingParams(temperature=0, max_tokens=LENGTH, **kind) for kind in KINDS]
    outputs = [output.outputs[0] for output in llm.generate(prompts, params, use_tqdm=False)]
    logprobs = [[round(top.logprob, 3) for top in tops.values()] for tops in outputs[1].logprobs]
    made = {"tokens": [list(output.token_ids) for output in outputs], "logprobs": logprobs}
    print(json.dumps({"runner": type(runner(llm)).__mro__[1].__module__} | made))


if __name__ == "__main__":
    main()
