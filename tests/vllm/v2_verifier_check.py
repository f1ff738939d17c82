"""Run under .venv-vllm's python, on the bed, by test_vllm_v2.py: parts of the worker's side by themselves."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

# The order of a CPU worker: the first one patches what the runner's module takes.
import vllm.v1.worker.cpu.shm  # noqa: F401  isort: skip
import numpy as np
import torch
from in_process import TARGET
from scripted_edges import MOST_DRAFTS, plugin_engine, plugin_options
from vllm.config import CUDAGraphMode
from vllm.engine.arg_utils import EngineArgs
from vllm.exceptions import VLLMValidationError
from vllm.lora.request import LoRARequest
from vllm.sampling_params import SamplingParams
from vllm.v1.worker.gpu import spec_decode
from vllm.v1.worker.gpu.cudagraph_utils import CudaGraphManager
from vllm.v1.worker.gpu.lora_utils import LoraState
from vllm.v1.worker.gpu.sample.gumbel import gumbel_sample

from pipesd_core.errors import ConfigError
from pipesd_core.sampling.torch_noise import Draw
from pipesd_vllm import compat, plugin
from pipesd_vllm.compat import runners, speculator
from pipesd_vllm.compat.verifier import walk
from pipesd_vllm.runner_choice import REMOTE_DRAFTS, V1, V2

MOST = 4
SEEDS = [0, 1, 7, -5, 2**40 + 3, 123456789012345678, 2**63 - 1, -(2**63)]


def check_walk(rng: random.Random) -> None:
    """Against the rule, request by request."""
    for _ in range(50):
        sizes = [rng.randrange(0, MOST + 1) for _ in range(rng.randrange(1, 6))]
        drawn: list[int] = []
        drafts: list[int] = []
        offsets: list[int] = []
        expected: list[list[int]] = []
        for size in sizes:
            tokens = [rng.randrange(3) for _ in range(size + 1)]
            asked = [rng.choice((tokens[i], rng.randrange(-1, 3))) for i in range(size)]
            n = next((i for i in range(size) if asked[i] != tokens[i]), size)
            expected.append(tokens[: n + 1])
            drawn += tokens
            drafts += [rng.randrange(3), *asked]
            offsets += range(size + 1)
        ends = torch.tensor(np.cumsum([0, *(size + 1 for size in sizes)]), dtype=torch.int32)
        got, counts = walk(
            torch.tensor(drawn), torch.tensor(drafts, dtype=torch.int32), ends, torch.tensor(offsets), MOST
        )
        assert [row[:n].tolist() for row, n in zip(got, counts.tolist(), strict=True)] == expected
        assert got.shape == (len(sizes), MOST + 1)


def check_noise() -> None:
    """V2's draw, in float32, is the agents', in float64: the same token but for near ties."""
    torch.manual_seed(0)
    same = total = 0
    for _ in range(20):
        logits, slots = torch.randn(64, 4096) * 3, torch.arange(64) % len(SEEDS)
        positions, seeds = torch.randint(0, 100_000, (64,)), torch.tensor(SEEDS)
        theirs = gumbel_sample(
            logits, slots, torch.ones(len(SEEDS)), seeds, positions, apply_temperature=False, is_drafting=False
        )
        ours = Draw(4096).tokens(logits, seeds[slots].numpy(), (positions + 1).numpy())
        same, total = same + int((theirs == ours).sum()), total + 64
    assert same >= total - 2, f"{same} of {total}"


def check_hand_over() -> None:
    """Drafts land in the slots of their requests, and nowhere else."""
    states = SimpleNamespace(req_id_to_index={"a": 2, "b": 0, "c": 1}, draft_tokens=torch.full((4, 3), 9))
    speculator.hand_over({"a": [5, 6], "b": [7, 8, 1], "c": []}, states, torch.device("cpu"))
    assert states.draft_tokens.tolist() == [[7, 8, 1], [9, 9, 9], [5, 6, -1], [9, 9, 9]]
    speculator.hand_over({}, states, torch.device("cpu"))


def refusal(kind: type[Exception], call: Callable[[], Any]) -> str:
    """What the error says that a call must end with."""
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError("it was not refused")


def configuration(**changes: Any) -> Any:
    model = {"use_fp64_gumbel": False, "is_diffusion": False}
    config = SimpleNamespace(
        model_config=SimpleNamespace(**model),
        watermark_config=None,
        speculative_config=SimpleNamespace(enable_adaptive_verification=False),
    )
    for path, value in changes.items():
        *parents, name = path.split("__")
        where = config
        for parent in parents:
            where = getattr(where, parent)
        setattr(where, name, value)
    return config


def check_refusals() -> None:
    speculator.refuse_other_noise(configuration())
    refused: dict[str, dict[str, Any]] = {
        "--use-fp64-gumbel": {"model_config__use_fp64_gumbel": True},
        "--watermark-config": {"watermark_config": {}},
        "enable_adaptive_verification": {"speculative_config__enable_adaptive_verification": True},
        "a diffusion model": {"model_config__is_diffusion": True},
    }
    for name, changes in refused.items():
        config = configuration(**changes)
        said = refusal(ConfigError, partial(speculator.refuse_other_noise, config))
        assert said.startswith(name), said


def check_parameters() -> None:
    """Only our own configuration changes what vLLM's front end takes."""
    theirs = SimpleNamespace(model="ngram_gpu")
    for name in REMOTE_DRAFTS.values():
        SamplingParams(min_p=0.1, logit_bias={5: 1.0})._validate_spec_decode(SimpleNamespace(model=name))
    only_some = SamplingParams(logprobs=1, logprob_token_ids=[5])
    only_some._validate_spec_decode(None)
    for name in REMOTE_DRAFTS.values():
        said = refusal(VLLMValidationError, partial(only_some._validate_spec_decode, SimpleNamespace(model=name)))
        assert "logprob_token_ids" in said
    for params in (SamplingParams(min_p=0.1), SamplingParams(logit_bias={5: 1.0})):
        refusal(VLLMValidationError, partial(params._validate_spec_decode, theirs))


def check_stock_servers() -> None:
    """A server of vLLM's own, in an environment that has our plugin, gets vLLM's speculator and its assertions."""
    refusal(AssertionError, partial(spec_decode.init_speculator, SimpleNamespace(speculative_config=None), None, None))


def check_adapters() -> None:
    """Each row of logits has its request's adapter. vLLM alone names one for each request: if no more, ours can go."""
    speculator.install()
    state = LoraState(4)
    for slot, (name, adapter) in enumerate((("a", 7), ("b", None), ("c", 9))):
        state.add_request(name, slot, None if adapter is None else LoRARequest(name, adapter, "/nowhere"))
    asked = ["c", "a", "b"], np.array([2, 0, 1]), np.array([3, 1, 2])
    stock = state.make_lora_inputs.__wrapped__
    assert stock(state, *asked)[0] == (9, 7, 0), "needless by now"
    setattr(state, speculator.OF_STEP, {"c": [5, 5], "b": [5]})
    of_rows, of_tokens, active = state.make_lora_inputs(*asked)
    assert of_rows == (9, 9, 9, 7, 0, 0)
    assert of_tokens == (9, 9, 9, 7, 0, 0)
    assert {adapter.lora_int_id for adapter in active} == {7, 9}


def check_graphs() -> None:
    """Full graphs are captured for steps of 1 token a request and of 1 + MOST_DRAFTS; an ordinary stream is 1 token.

    By vLLM's own rule, on a configuration as `pipesd-vllm serve` makes it: it needs a GPU to make the graphs only.
    """
    config = EngineArgs(str(TARGET), dtype="float32", max_model_len=512, **plugin_options()).create_engine_config()
    sizes = [1, 2, 4, *range(8, 257, 8)]
    manager = object.__new__(CudaGraphManager)
    manager.__dict__ |= {
        "vllm_config": config,
        "compilation_config": SimpleNamespace(cudagraph_capture_sizes=sizes, max_cudagraph_capture_size=256),
        "cudagraph_mode": CUDAGraphMode.FULL_AND_PIECEWISE,
        "decode_query_len": 1 + MOST_DRAFTS,
        "max_num_reqs": 128,
        "lora_capture_cases": [0],
        "varlen_decode": False,
        "ubatch_runner": None,
        "_candidates": {},
        "_capture_descs": {},
    }
    manager._init_candidates()
    full = {(graph.num_tokens, graph.uniform_token_count) for graph in manager._capture_descs[CUDAGraphMode.FULL]}
    assert {per_request for _, per_request in full} == {1, 1 + MOST_DRAFTS}
    assert {(n, 1) for n in sizes if n <= 128} <= full
    assert (1 + MOST_DRAFTS, 1 + MOST_DRAFTS) in full


def main() -> None:
    plugin.register()
    assert runners.v2_is_missing() is None, "the bed is not there"
    assert compat.moved(V1, V2) == []
    check_walk(random.Random(1))
    check_noise()
    check_hand_over()
    check_refusals()
    check_parameters()
    check_stock_servers()
    check_adapters()
    check_graphs()
    said = refusal(ConfigError, partial(plugin_engine, use_fp64_gumbel=True))
    assert said.startswith("--use-fp64-gumbel cannot be had"), said
    print("ok")


if __name__ == "__main__":
    main()
