"""Write a model as a Hugging Face folder: bf16 safetensors beside the unchanged configuration and tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from model import LM
from safetensors.torch import save_file

FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


def save_folder(model: LM, like: Path, out: Path) -> None:
    """Write ``model`` to ``out``; all but the weights is copied from the folder ``like``.

    The weights are renamed into place, so a reader sees the old file or the new one.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(like / name, out / name)
    weights = {f"model.{k}": v.detach().to(torch.bfloat16).contiguous() for k, v in model.state_dict().items()}
    temporary = out / "model.safetensors.tmp"
    save_file(weights, temporary, metadata={"format": "pt"})
    temporary.chmod(0o644)
    temporary.replace(out / "model.safetensors")
