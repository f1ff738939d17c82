"""One vocabulary read at both ends: a tokenizer as vLLM has it, and the GGUF file that llama.cpp's converter makes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest

from pipesd_core.llamacpp.binding import Model
from pipesd_core.protocol.fingerprint import fingerprint
from pipesd_core.protocol.hf_vocabulary import pieces

pytestmark = pytest.mark.e2e


@dataclass
class Added:
    """Beside a token's name: is it special, in the tokenizer's own words?"""

    special: bool


# Ids 151643 to 151668 of Qwen2.5 and Qwen3 as their tokenizer_config.json has them, without some images' marks.
QWEN = {
    "<|endoftext|>": Added(True),
    "<|im_start|>": Added(True),
    "<|im_end|>": Added(True),
    "<|object_ref_start|>": Added(True),
    "<|video_pad|>": Added(True),
    "<tool_call>": Added(False),
    "</tool_call>": Added(False),
    "<|fim_prefix|>": Added(False),
    "<|fim_middle|>": Added(False),
    "<|fim_suffix|>": Added(False),
    "<|fim_pad|>": Added(False),
    "<|repo_name|>": Added(False),
    "<|file_sep|>": Added(False),
    "<think>": Added(False),
}
LLAMA_3 = dict.fromkeys(
    (
        *("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|finetune_right_pad_id|>"),
        *("<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"),
    ),
    Added(True),
)
OTHERS = {"<｜end▁of▁sentence｜>": Added(True), "<｜User｜>": Added(False), "é und mehr": Added(False)}


def byte_names() -> list[str]:
    """The 256 one-byte tokens of byte-level BPE, and a few longer ones."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    names = [chr(byte if byte in printable else next(others)) for byte in range(256)]
    return [*names, "Ġd", "de", "ĠĠ", "Ċĉ", "Ã©"]


def token_type(name: str, added: Added) -> gguf.TokenType:
    """What `convert_hf_to_gguf.py` writes for an added token (`get_vocab_base`, `does_token_look_special`)."""
    looks_special = (name[:2], name[-2:]) in (("<|", "|>"), ("<｜", "｜>"))
    return gguf.TokenType.CONTROL if added.special or looks_special else gguf.TokenType.USER_DEFINED


def convert(path: Path, added: dict[str, Added], padding: int, pre: str) -> None:
    """A GGUF file as the converter makes one: a Llama of one layer of zeros with this vocabulary."""
    names = byte_names()
    types = [gguf.TokenType.NORMAL] * len(names) + [token_type(name, how) for name, how in added.items()]
    names += added
    types += [gguf.TokenType.UNUSED] * padding
    names += [f"[PAD{token}]" for token in range(len(names), len(names) + padding)]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(names))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(names)
    writer.add_token_types(types)
    writer.add_token_merges(["Ġ d", "d e", "Ġ Ġ", "Ċ ĉ", "Ã ©"])
    writer.add_tensor("token_embd.weight", np.zeros((len(names), 32), np.float32))
    writer.add_tensor("output_norm.weight", np.zeros(32, np.float32))
    for tensor in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{tensor}.weight", np.zeros(32, np.float32))
    for tensor in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{tensor}.weight", np.zeros((32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tokenizer(added: dict[str, Added]) -> Any:
    """What the plugin reads of transformers' tokenizer."""
    names = [*byte_names(), *added]
    first = len(names) - len(added)
    return SimpleNamespace(
        get_vocab=lambda: {name: token for token, name in enumerate(names)},
        added_tokens_decoder=dict(enumerate(added.values(), first)),
    )


@pytest.mark.parametrize(
    ("added", "pre"),
    [(QWEN, "qwen2"), (LLAMA_3, "llama-bpe"), (OTHERS, "gpt-2")],
    ids=["qwen", "llama3", "others"],
)
def test_both_ends_read_one_vocabulary(tmp_path: Path, added: dict[str, Added], pre: str) -> None:
    path = tmp_path / "draft.gguf"
    convert(path, added, 3, pre)
    of_target = list(pieces(tokenizer(added), len(byte_names()) + len(added) + 131))  # padded otherwise than the draft
    with Model(path) as model:
        assert list(model.vocabulary()) == of_target
        assert model.fingerprint() == fingerprint(of_target)
        assert model.n_vocab == len(of_target) + 3


def test_an_added_token_more_is_another_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "draft.gguf"
    convert(path, {name: how for name, how in QWEN.items() if name != "<think>"}, 3, "qwen2")
    with Model(path) as model:
        assert model.fingerprint() != fingerprint(pieces(tokenizer(QWEN), 400))
