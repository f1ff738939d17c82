"""A LoRA adapter for the demo target, of random numbers: it changes what the target writes, and nothing else."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Final

import numpy as np
from repository import ROOT

CONFIG: Final = json.loads((ROOT / "examples" / "demo_pair" / "target" / "config.json").read_text("utf-8"))
RANK: Final = 8


def write_adapter(folder: Path, seed: int) -> Path:
    """Make an adapter of PEFT's form, of the queries and values of every layer. Returns its folder."""
    rng = np.random.default_rng(seed)
    width = CONFIG["hidden_size"]
    outputs = {
        "q_proj": CONFIG["num_attention_heads"] * CONFIG["head_dim"],
        "v_proj": CONFIG["num_key_value_heads"] * CONFIG["head_dim"],
    }
    tensors = {}
    for layer in range(CONFIG["num_hidden_layers"]):
        for name, output in outputs.items():
            of = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{of}.lora_A.weight"] = rng.normal(0, width**-0.5, (RANK, width)).astype(np.float32)
            tensors[f"{of}.lora_B.weight"] = rng.normal(0, 0.1, (output, RANK)).astype(np.float32)
    folder.mkdir(parents=True)
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": list(outputs),
        "base_model_name_or_path": "",
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings), "utf-8")
    (folder / "adapter_model.safetensors").write_bytes(safetensors(tensors))
    return folder


def safetensors(tensors: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]) -> bytes:
    """A file of that form: the length of a header in JSON, the header, the numbers."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": (end, end + tensor.nbytes)}
        end += tensor.nbytes
    described = json.dumps(header).encode()
    return struct.pack("<Q", len(described)) + described + b"".join(tensor.tobytes() for tensor in tensors.values())
