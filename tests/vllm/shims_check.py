"""Run under .venv-vllm's python by test_vllm_compat.py: stock vLLM still lacks what the plugin adds to it.

Each check here fails with the vLLM that has mended the thing: then what it names can go. The work-arounds for CPUs are
looked for in a server's log (test_vllm_cpu.py), the default for LoRA in lora_check.py.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from drafted_rows_check import CONFIG, DEVICE, metadata
from vllm.entrypoints.launchers.cli_args import FrontendArgs
from vllm.exceptions import RetryableRequestError, VLLMValidationError
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.core import EngineCore
from vllm.v1.sample import rejection_sampler
from vllm.v1.sample.logits_processor import LogitsProcessors
from vllm.v1.sample.logits_processor.builtin import (
    LogitBiasLogitsProcessor,
    MinPLogitsProcessor,
    MinTokensLogitsProcessor,
)
from vllm.v1.sample.rejection_sampler import RejectionSampler
from vllm.v1.sample.sampler import Sampler
from vllm.v1.worker import gpu_model_runner

from pipesd_vllm.compat import cpu, runners
from pipesd_vllm.compat.serving import as_api_error
from pipesd_vllm.runner_choice import REMOTE_DRAFTS

BIASED = SamplingParams(temperature=1.0, min_p=0.5, logit_bias={5: 9.0}, max_tokens=9)


def min_p_and_logit_bias_are_refused() -> None:
    """`compat.runners._replace_validation`."""
    try:
        BIASED._validate_spec_decode(SimpleNamespace())
    except VLLMValidationError:
        return
    raise AssertionError("vLLM takes min_p and logit_bias with speculation: the lifting of its refusal is needless")


def no_processors_are_made() -> None:
    """`compat.drafted_rows._make_processors`."""
    made = gpu_model_runner.build_logitsprocs(CONFIG, DEVICE, False, False, ())
    assert [type(each) for each in made.all] == [MinTokensLogitsProcessor], "it makes them: `_make_processors`"


def drafted_rows_are_left_out() -> None:
    """`compat.drafted_rows._bias_drafted_rows` and `_cut_drafted_rows`."""
    processors = LogitsProcessors(
        [LogitBiasLogitsProcessor(CONFIG, DEVICE, False), MinPLogitsProcessor(CONFIG, DEVICE, False)]
    )
    of_step = metadata([(BIASED, [1], [2])], [[3, 4]], processors)
    rows = torch.zeros(2, 200)
    rows[:, 7] = 4.0
    sampler = RejectionSampler(Sampler())
    biased = sampler.apply_logits_processors(rows.clone(), of_step, SimpleNamespace(num_draft_tokens=[2]))
    assert torch.equal(biased, rows), "it biases drafted rows: `_bias_drafted_rows`"
    ends = torch.tensor([2], dtype=torch.int32)
    cut = rejection_sampler.apply_sampling_constraints(rows.clone(), ends, of_step)
    assert torch.isfinite(cut).all(), "it applies min_p to drafted rows: `_cut_drafted_rows`"


def scores_of_given_tokens_end_a_step_with_drafts() -> None:
    """The refusal in `compat.runners._replace_validation`."""
    scored = SamplingParams(temperature=0, max_tokens=1, logprobs=2, logprob_token_ids=[5, 6])
    drafted = SamplingParams(temperature=0, max_tokens=9)
    of_step = metadata([(drafted, [1], [2]), (scored, [1], [2])], [[3, 4], []], LogitsProcessors())
    of_step = replace(of_step, no_penalties=True, max_num_logprobs=2, logprob_token_ids={1: [5, 6]})
    step = SimpleNamespace(
        max_spec_len=2,
        num_draft_tokens=[2, 0],
        draft_token_ids=torch.tensor([3, 4]),
        cu_num_draft_tokens=torch.tensor([2, 2], dtype=torch.int32),
        cu_num_sampled_tokens=torch.tensor([3, 4]),
        target_logits_indices=torch.tensor([0, 1]),
        bonus_logits_indices=torch.tensor([2, 3]),
    )
    sampled = torch.tensor([[3, 4, 7], [8, -1, -1]], dtype=torch.int32)
    stock, rejection_sampler.rejection_sample = rejection_sampler.rejection_sample, lambda *_, **__: sampled
    try:
        RejectionSampler(Sampler())(step, None, torch.zeros(4, 200), of_step)
    except RuntimeError:
        return
    finally:
        rejection_sampler.rejection_sample = stock
    raise AssertionError("vLLM has scores beside drafts: look whether they are right, then stop refusing them")


def what_a_server_takes_and_refuses() -> None:
    runners.prepare()
    for model in REMOTE_DRAFTS.values():
        ours = SimpleNamespace(model=model)
        BIASED._validate_spec_decode(ours)
        try:
            SamplingParams(max_tokens=1, logprob_token_ids=[5])._validate_spec_decode(ours)
        except VLLMValidationError as error:
            assert "cannot be had of a server that verifies drafts" in str(error), error  # noqa: PT017
            continue
        raise AssertionError("scores of given tokens were taken")


def every_step_asks_the_worker_for_drafts() -> None:
    """`compat.core._ask_no_worker_for_drafts`."""
    asked: list[bool] = []

    def take() -> None:
        asked.append(True)

    core: Any = SimpleNamespace(
        check_for_draft_tokens=True,
        use_spec_decode=True,
        async_scheduling=False,
        model_executor=SimpleNamespace(take_draft_token_ids=take),
    )
    EngineCore.post_step(core, True)
    assert asked, "it asks nobody: `_ask_no_worker_for_drafts`"


def keepalive_of_websockets_has_no_flag() -> None:
    """`compat.server.keep_alive`."""
    flags = [name for name in FrontendArgs.__dataclass_fields__ if "ping" in name]
    assert not flags, f"there are flags: {flags}: `keep_alive`"


def a_request_that_may_be_tried_again_is_told_so() -> None:
    """vLLM 0.33 refuses requests of a paused engine by this error; sessions get its 503."""
    refused = as_api_error(RetryableRequestError("the engine is paused"))
    assert refused.status == 503, refused.status


if __name__ == "__main__":
    torch.set_num_threads(1)
    rejection_sampler.expand_batch_to_tokens = cpu._expand_batch_to_tokens  # vLLM's needs a GPU, or its CPU worker
    for check in (
        min_p_and_logit_bias_are_refused,
        no_processors_are_made,
        drafted_rows_are_left_out,
        scores_of_given_tokens_end_a_step_with_drafts,
        every_step_asks_the_worker_for_drafts,
        keepalive_of_websockets_has_no_flag,
        a_request_that_may_be_tried_again_is_told_so,
        what_a_server_takes_and_refuses,
    ):
        check()
    print("nothing is needless")
