"""The folder that vLLM and transformers load, made from the package's GGUF file.

The weights are those of the F16 GGUF file: the same numbers, in Hugging Face's names and order of rows. Needs numpy and
gguf.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import numpy.typing as npt

from examples.smollm2.gguf_file import EMBEDDING, OUTPUT_NORM, GgufFile, Weights

WHOLE_MODEL: Final = {EMBEDDING: "model.embed_tokens.weight", OUTPUT_NORM: "model.norm.weight"}
PER_LAYER: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def hugging_face_name(name: str) -> str:
    """Of a tensor of a llama GGUF file. Raises KeyError."""
    if name in WHOLE_MODEL:
        return WHOLE_MODEL[name]
    _, layer, part, _ = name.split(".")
    return f"model.layers.{layer}.{PER_LAYER[part]}.weight"


def to_halves(weight: Weights, heads: int) -> Weights:
    """Reorder the rows of Q or K, (heads * head size, hidden): llama.cpp rotates rows 2i and 2i + 1 of a head together,
    Hugging Face rows i and i + head size / 2."""
    rows, hidden = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, hidden).swapaxes(1, 2).reshape(rows, hidden)


def to_pairs(weight: Weights, heads: int) -> Weights:
    """Undo `to_halves`."""
    rows, hidden = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, hidden).swapaxes(1, 2).reshape(rows, hidden)


def write_folder(folder: Path, source: GgufFile) -> None:
    """Write the folder; it appears only when it is complete, in the place of one that was there."""
    scratch = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        end, padding = source.value("tokenizer.ggml.eos_token_id"), source.value("tokenizer.ggml.padding_token_id")
        begin = source.value("tokenizer.ggml.bos_token_id")
        files = {
            "config.json": config(source),
            "tokenizer.json": tokenizer(source),
            "tokenizer_config.json": tokenizer_config(source),
            "generation_config.json": {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": padding},
        }
        for name, content in files.items():
            (scratch / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        write_safetensors(scratch / "model.safetensors", {n: w.astype(np.float16) for n, w in tensors(source)})
        scratch.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def tensors(source: GgufFile) -> list[tuple[str, Weights]]:
    """All tensors of a llama model, with Hugging Face's names and order."""
    heads = {
        "attn_q": int(source.value("llama.attention.head_count")),
        "attn_k": int(source.value("llama.attention.head_count_kv")),
    }
    found = []
    for name in source.names:
        weight = source.weights(name)
        part = name.split(".")[-2]
        found.append((hugging_face_name(name), to_halves(weight, heads[part]) if part in heads else weight))
    return found


def config(source: GgufFile) -> dict[str, Any]:
    """config.json."""

    def size(key: str) -> Any:
        return source.value(f"llama.{key}")

    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": source.value("tokenizer.ggml.bos_token_id"),
        "eos_token_id": source.value("tokenizer.ggml.eos_token_id"),
        "pad_token_id": source.value("tokenizer.ggml.padding_token_id"),
        "head_dim": size("rope.dimension_count"),
        "hidden_act": "silu",
        "hidden_size": size("embedding_length"),
        "initializer_range": 0.02,
        "intermediate_size": size("feed_forward_length"),
        "max_position_embeddings": size("context_length"),
        "mlp_bias": False,
        "num_attention_heads": size("attention.head_count"),
        "num_hidden_layers": size("block_count"),
        "num_key_value_heads": size("attention.head_count_kv"),
        "rms_norm_eps": float(f"{size('attention.layer_norm_rms_epsilon'):.6g}"),  # float32 of 1e-05
        "rope_scaling": None,
        "rope_theta": size("rope.freq_base"),
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "use_cache": True,
        "vocab_size": size("vocab_size"),
    }


def tokenizer(source: GgufFile) -> dict[str, Any]:
    """tokenizer.json of llama.cpp's "smollm" tokenizer: digits one by one, then GPT-2's byte-level BPE."""
    kind = (source.value("tokenizer.ggml.model"), source.value("tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise ValueError(f"the tokenizer is {kind}, not ('gpt2', 'smollm')")
    tokens = source.value("tokenizer.ggml.tokens")
    types = source.value("tokenizer.ggml.token_type")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": text, **flags}
            for i, (text, kind) in enumerate(zip(tokens, types, strict=True))
            if kind == gguf.TokenType.CONTROL
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {text: i for i, text in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in source.value("tokenizer.ggml.merges")],
        },
    }


def tokenizer_config(source: GgufFile) -> dict[str, Any]:
    """tokenizer_config.json."""
    tokens = source.value("tokenizer.ggml.tokens")

    def named(which: str) -> str:
        return str(tokens[source.value(f"tokenizer.ggml.{which}_token_id")])

    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "bos_token": named("bos"),
        "eos_token": named("eos"),
        "pad_token": named("padding"),
        "unk_token": named("unknown"),
        "clean_up_tokenization_spaces": False,
        "model_max_length": source.value("llama.context_length"),
        "chat_template": source.value("tokenizer.chat_template"),
    }


def write_safetensors(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Write a safetensors file: the length of the header (8 bytes, little endian), the header, the numbers."""
    names = {"float32": "F32", "float16": "F16", "uint8": "U8"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, array in arrays.items():
        span = [at, at + array.nbytes]
        header[name] = {"dtype": names[str(array.dtype)], "shape": list(array.shape), "data_offsets": span}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).tobytes())


def read_safetensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read what `write_safetensors` wrote."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    types = {"F32": "<f4", "F16": "<f2", "U8": "u1"}
    arrays = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        arrays[name] = np.frombuffer(data[begin:end], types[entry["dtype"]]).reshape(entry["shape"])
    return arrays
