"""Run under .venv-vllm's python by test_vllm_images.py: a model that takes images, into the folder that is named.

Its language model is the demo target, with a few tokens more; a tiny vision tower, and what connects the two, are
random numbers. An Idefics3, because its code needs no torchvision, which has no wheel for the torch of .venv-vllm.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Final

import torch
from transformers import (
    AutoTokenizer,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    LlamaForCausalLM,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

TARGET: Final = Path(__file__).resolve().parents[2] / "examples" / "demo_pair" / "target"
SIDE: Final = 56
PATCH: Final = 14
SCALE: Final = 2
"""Patches that become one token, along each side."""
VISION: Final = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": PATCH,
}
CHAT: Final = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}"
    "{{ part['text'] if part['type'] == 'text' else '<image>' }}{% endfor %}{% endif %}"
    "{{ '<|end|>' if m['role'] == 'assistant' else '' }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def main(folder: Path) -> None:
    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(TARGET)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<fake_token_around_image>", "<image>", "<global-img>"]}
    )
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=False
    )
    tokens = (SIDE // PATCH // SCALE) ** 2
    Idefics3Processor(images, tokenizer, image_seq_len=tokens, chat_template=CHAT).save_pretrained(folder)
    language = LlamaForCausalLM.from_pretrained(TARGET, dtype=torch.float32)
    language.resize_token_embeddings(len(tokenizer))
    config = Idefics3Config(
        vision_config=VISION,
        text_config=language.config.to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=SCALE,
        tie_word_embeddings=True,
    )
    model = Idefics3ForConditionalGeneration(config)
    model.model.text_model.load_state_dict(language.model.state_dict())
    model.tie_weights()
    model.save_pretrained(folder)
    shutil.copy(TARGET / "generation_config.json", folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": CHAT}), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
