"""Convert a Llama-architecture model folder (Hugging Face layout, byte-level BPE) to one GGUF file.

    python examples/demo_pair/to_gguf.py MODEL_DIR OUT.gguf --type F32|F16|Q8_0 [--name NAME]

Needs only ``gguf`` and ``numpy``. Token ids, the chat template and the end-of-text tokens come from the
folder's own JSON files.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import struct
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

TYPES = {
    "F32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "F16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "Q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}

WHOLE_MODEL = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
PER_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


class ConversionError(ValueError):
    """The folder holds something this converter does not know how to say in GGUF."""


# --- weights ---------------------------------------------------------------------------------------------


def bf16_to_f32(raw: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Decode bfloat16 bit patterns: they are the upper halves of float32 ones, so nothing is rounded."""
    return (raw.astype(np.uint32) << 16).view(np.float32)


def read_safetensors(path: Path) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """All tensors of a safetensors file as float32, in the order of their bytes.

    The file is an 8-byte little-endian header length, a JSON header with dtype, shape and byte range of each
    tensor, and the bytes.
    """
    blob = path.read_bytes()
    (length,) = struct.unpack_from("<Q", blob)
    header: dict[str, Any] = json.loads(blob[8 : 8 + length])
    header.pop("__metadata__", None)
    for name, entry in sorted(header.items(), key=lambda item: int(item[1]["data_offsets"][0])):
        start, end = entry["data_offsets"]
        data = blob[8 + length + start : 8 + length + end]
        if entry["dtype"] == "BF16":
            values = bf16_to_f32(np.frombuffer(data, dtype="<u2"))
        elif entry["dtype"] in ("F16", "F32"):
            values = np.frombuffer(data, dtype="<f2" if entry["dtype"] == "F16" else "<f4").astype(np.float32)
        else:
            raise ConversionError(f"{path}: tensor {name} has unsupported dtype {entry['dtype']}")
        yield name, values.reshape(entry["shape"])


def permute_rope(weight: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Reorder the rows of a Q or K projection, (heads * head_dim, hidden), for llama.cpp.

    Hugging Face rotates row i of a head together with row i + head_dim / 2; llama.cpp's "llama" architecture
    rotates rows 2i and 2i + 1. Without this the model still loads and writes nearly sensible text.
    """
    rows, hidden = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, hidden).swapaxes(1, 2).reshape(rows, hidden)


def gguf_name(name: str) -> str:
    """The GGUF name of a Hugging Face tensor."""
    if name in WHOLE_MODEL:
        return WHOLE_MODEL[name]
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    if match is None or match[2] not in PER_LAYER:
        raise ConversionError(f"unknown tensor {name}")
    return f"blk.{match[1]}.{PER_LAYER[match[2]]}.weight"


def convert_tensors(
    weights: Iterator[tuple[str, npt.NDArray[np.float32]]], config: dict[str, Any]
) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Rename and reorder; a tied output matrix is left out, as llama.cpp then takes the embedding."""
    for name, weight in weights:
        if name == "lm_head.weight" and config["tie_word_embeddings"]:
            continue
        target = gguf_name(name)
        if target.endswith("attn_q.weight"):
            weight = permute_rope(weight, int(config["num_attention_heads"]))
        elif target.endswith("attn_k.weight"):
            weight = permute_rope(weight, int(config["num_key_value_heads"]))
        yield target, np.ascontiguousarray(weight)


# --- tokenizer -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Vocabulary:
    """What GGUF wants to know of a byte-level BPE tokenizer."""

    tokens: list[str]
    types: list[gguf.TokenType]
    merges: list[str]

    @classmethod
    def from_tokenizer(cls, tokenizer: dict[str, Any], size: int) -> Vocabulary:
        """From the parsed ``tokenizer.json``; ids without a token become unused ones."""
        pre = tokenizer["pre_tokenizer"]
        if tokenizer["model"]["type"] != "BPE" or pre["type"] != "ByteLevel" or pre.get("add_prefix_space"):
            raise ConversionError("only byte-level BPE without prefix space is supported")
        if not pre.get("use_regex", True):
            raise ConversionError("only the GPT-2 splitting pattern is supported")
        tokens = [f"[unused{i}]" for i in range(size)]
        types = [gguf.TokenType.UNUSED] * size
        for text, i in tokenizer["model"]["vocab"].items():
            tokens[i], types[i] = text, gguf.TokenType.NORMAL
        for added in tokenizer["added_tokens"]:
            i = added["id"]
            tokens[i] = added["content"]
            types[i] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
        merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
        return cls(tokens, types, merges)

    def id_of(self, token: str) -> int:
        """The id of a token text."""
        try:
            return self.tokens.index(token)
        except ValueError:
            raise ConversionError(f"token {token!r} is not in the vocabulary") from None


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the marks that begin and end texts."""

    bos: int
    eos: int
    eot: int
    pad: int

    @classmethod
    def from_folder(
        cls, vocabulary: Vocabulary, config: dict[str, Any], tokenizer_config: dict[str, Any]
    ) -> SpecialIds:
        """The tokenizer's ``eos_token`` ends a chat turn (eot), the model's other end id a document (eos)."""
        bos = vocabulary.id_of(tokenizer_config["bos_token"])
        eot = vocabulary.id_of(tokenizer_config["eos_token"])
        ends = config.get("eos_token_id", eot)
        others = [i for i in (ends if isinstance(ends, list) else [ends]) if i != eot]
        pad = vocabulary.id_of(tokenizer_config.get("pad_token") or tokenizer_config["eos_token"])
        return cls(bos=bos, eos=others[0] if others else eot, eot=eot, pad=pad)


# --- the file --------------------------------------------------------------------------------------------


def write_metadata(
    writer: gguf.GGUFWriter,
    config: dict[str, Any],
    vocabulary: Vocabulary,
    special: SpecialIds,
    template: str | None,
) -> None:
    """Write sizes and tokenizer."""
    heads = int(config["num_attention_heads"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(special.bos)
    writer.add_eos_token_id(special.eos)
    writer.add_eot_token_id(special.eot)
    writer.add_pad_token_id(special.pad)
    # The caller writes all marks itself; an automatic one would shift every id against the other engines.
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    if template:
        writer.add_chat_template(template)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ConversionError(f"{path} holds no JSON object")
    return content


def convert(folder: Path, out: Path, type_name: str = "F32", name: str | None = None) -> None:
    """Convert ``folder`` to ``out``; ``out`` appears only when it is complete.

    Matrices get the type asked for, norms stay F32 (they are small and llama.cpp wants them so).
    """
    config = read_json(folder / "config.json")
    if config.get("model_type") != "llama":
        raise ConversionError(f"{folder}: model_type is {config.get('model_type')!r}, not 'llama'")
    tokenizer_config = read_json(folder / "tokenizer_config.json")
    vocabulary = Vocabulary.from_tokenizer(read_json(folder / "tokenizer.json"), config["vocab_size"])
    special = SpecialIds.from_folder(vocabulary, config, tokenizer_config)
    matrix_type, file_type = TYPES[type_name]

    handle, temporary = tempfile.mkstemp(prefix=out.name, suffix=".tmp", dir=out.parent)
    os.close(handle)
    try:
        writer = gguf.GGUFWriter(temporary, "llama")
        writer.add_name(name or f"pipesd-demo-{folder.resolve().name}")
        writer.add_file_type(file_type)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        write_metadata(writer, config, vocabulary, special, tokenizer_config.get("chat_template"))
        for tensor_name, weight in convert_tensors(read_safetensors(folder / "model.safetensors"), config):
            kind = gguf.GGMLQuantizationType.F32 if weight.ndim == 1 else matrix_type
            data: Array = gguf.quantize(weight, kind)
            writer.add_tensor(tensor_name, data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner may read
        os.replace(temporary, out)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument("out", type=Path, metavar="OUT.gguf")
    parser.add_argument("--type", choices=sorted(TYPES), default="F32", help="of the matrices (default F32)")
    parser.add_argument("--name", help="general.name (default: pipesd-demo- and the folder's name)")
    args = parser.parse_args(argv)
    try:
        convert(args.model, args.out, args.type, args.name)
    except (ConversionError, OSError, KeyError) as error:
        print(f"to_gguf: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
