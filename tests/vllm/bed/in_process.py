"""A vLLM engine in this process, over the demo target: scheduler and worker are plain objects, and it is up in seconds.

Import this module before vLLM. On the bed (`v2_bed.environ`) the engine runs on V2, else on what vLLM takes.
PIPESD_ENGINE_OPTIONS, a JSON object, has the last word on its options: `bench.gpu` sets it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
os.environ.setdefault("VLLM_PLUGINS", "")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from vllm.entrypoints.llm import LLM

OPTIONS: Final = "PIPESD_ENGINE_OPTIONS"
ROOT: Final = Path(__file__).resolve().parents[3]
TARGET: Final = ROOT / "examples" / "demo_pair" / "target"
PROMPTS: Final = (
    "The quick brown fox",
    "def fibonacci(n):",
    "Once upon a time there was a little robot who",
    "In the beginning",
    "import os\nimport sys\n",
    "The capital of France is",
)


def engine(**options: Any) -> Any:
    """A `vllm.LLM`: room for 16 requests and 1,024 tokens in a step, unless `options` say something else."""
    usual = {
        "model": str(TARGET),
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 1024,
        "block_size": 32,
        "kv_cache_memory_bytes": 2**28,
        "max_num_seqs": 16,
        "max_num_batched_tokens": 1024,
        "disable_log_stats": True,
        "distributed_executor_backend": "uni",
    }
    return LLM(**(usual | options | json.loads(os.environ.get(OPTIONS, "{}"))))


def core(llm: Any) -> Any:
    """Its engine core."""
    return llm.llm_engine.engine_core.engine_core


def runner(llm: Any) -> Any:
    """Its worker's model runner."""
    return core(llm).model_executor.driver_worker.worker.model_runner


def texts(llm: Any, prompts: list[str], params: list[Any]) -> list[list[int]]:
    """The token ids that ordinary requests get, all at once."""
    outputs = llm.generate(prompts, [one.clone() for one in params], use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]
