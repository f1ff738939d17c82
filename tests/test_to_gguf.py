"""Tests of examples/demo_pair/to_gguf.py on made-up weights and on the shipped folders; no torch needed."""

from __future__ import annotations

import importlib.util
import json
import struct
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

np = pytest.importorskip("numpy")
gguf = pytest.importorskip("gguf")

DEMO = Path(__file__).resolve().parents[1] / "examples" / "demo_pair"


def load() -> ModuleType:
    """Import the script from its file; examples/ is no package."""
    spec = importlib.util.spec_from_file_location("to_gguf", DEMO / "to_gguf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["to_gguf"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


to_gguf = load()


def text(field: Any) -> str:
    """A string value of a GGUF file."""
    return bytes(field.parts[field.data[0]]).decode()


def number(reader: Any, key: str) -> Any:
    """A scalar value of a GGUF file."""
    field = reader.fields[key]
    return field.parts[field.data[0]][0]


def write_safetensors(path: Path, tensors: dict[str, Any]) -> None:
    """Write float32 arrays as bf16 by cutting off their lower halves."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, array in tensors.items():
        raw = (np.ascontiguousarray(array, dtype="<f4").view("<u4") >> 16).astype("<u2").tobytes()
        span = [len(body), len(body) + len(raw)]
        header[name] = {"dtype": "BF16", "shape": list(array.shape), "data_offsets": span}
        body += raw
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + body)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A model folder of one layer: hidden 32, 2 heads of 16, 1 key/value head, ff 64, 8 tokens (one unused)."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    rng = np.random.default_rng(0)
    shapes = {
        "model.embed_tokens.weight": (8, 32),
        "model.layers.0.input_layernorm.weight": (32,),
        "model.layers.0.self_attn.q_proj.weight": (32, 32),
        "model.layers.0.self_attn.k_proj.weight": (16, 32),
        "model.layers.0.self_attn.v_proj.weight": (16, 32),
        "model.layers.0.self_attn.o_proj.weight": (32, 32),
        "model.layers.0.post_attention_layernorm.weight": (32,),
        "model.layers.0.mlp.gate_proj.weight": (64, 32),
        "model.layers.0.mlp.up_proj.weight": (64, 32),
        "model.layers.0.mlp.down_proj.weight": (32, 64),
        "model.norm.weight": (32,),
        "lm_head.weight": (8, 32),
    }
    tensors = {name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items()}
    write_safetensors(folder / "model.safetensors", tensors)
    config = {
        "model_type": "llama",
        "vocab_size": 8,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "eos_token_id": [1, 0],
    }
    tokenizer = {
        "added_tokens": [
            {"id": 0, "content": "<|endoftext|>", "special": True},
            {"id": 1, "content": "<|end|>", "special": True},
            {"id": 5, "content": "plain", "special": False},
        ],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {"<|endoftext|>": 0, "<|end|>": 1, "a": 2, "b": 3, "ab": 4, "Ġ": 6},
            "merges": [["a", "b"], "b a"],
        },
    }
    tokenizer_config = {
        "bos_token": "<|endoftext|>",
        "eos_token": "<|end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": "{{ messages }}",
    }
    for name, content in (("config", config), ("tokenizer", tokenizer), ("tokenizer_config", tokenizer_config)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_bf16_decodes_exactly() -> None:
    patterns = np.array([0x0000, 0x3F80, 0xC000, 0x3EAB, 0x7F80, 0x0001], dtype=np.uint16)
    values = to_gguf.bf16_to_f32(patterns)
    assert values.dtype == np.float32
    assert values.tolist() == [0.0, 1.0, -2.0, 0.333984375, float("inf"), 2.0**-133]


def test_permutation_pairs_the_halves_of_each_head() -> None:
    rows = np.arange(8, dtype=np.float32)[:, None]  # 2 heads of 4 rows, 1 column
    assert to_gguf.permute_rope(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert to_gguf.permute_rope(rows, 1)[:, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def test_permuted_rotation_gives_the_same_attention_scores() -> None:
    """Half rotation of q = Wx equals pairwise rotation of the permuted one, up to the order of the rows."""
    rng = np.random.default_rng(1)
    weight, x = rng.normal(size=(8, 3)), rng.normal(size=3)
    angle = 0.7 * 10000.0 ** (-np.arange(4) / 4)
    q = weight @ x
    cos, sin = np.cos(angle), np.sin(angle)
    half = np.concatenate([q[:4] * cos - q[4:] * sin, q[4:] * cos + q[:4] * sin])
    p = to_gguf.permute_rope(weight, 1) @ x
    even, odd = p[0::2], p[1::2]
    pairs = np.concatenate([even * cos - odd * sin, odd * cos + even * sin])
    np.testing.assert_allclose(pairs, half)


def test_unknown_tensor_is_refused() -> None:
    with pytest.raises(to_gguf.ConversionError, match="q_norm"):
        to_gguf.gguf_name("model.layers.0.self_attn.q_norm.weight")


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0"])
def test_tensors(tiny: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out.gguf"
    assert to_gguf.main([str(tiny), str(out), "--type", kind]) == 0
    tensors = {t.name: t for t in gguf.GGUFReader(out).tensors}
    # GGUF lists the fastest dimension first; a tied output matrix must be absent.
    assert {name: tuple(int(n) for n in t.shape) for name, t in tensors.items()} == {
        "token_embd.weight": (32, 8),
        "output_norm.weight": (32,),
        "blk.0.attn_norm.weight": (32,),
        "blk.0.attn_q.weight": (32, 32),
        "blk.0.attn_k.weight": (32, 16),
        "blk.0.attn_v.weight": (32, 16),
        "blk.0.attn_output.weight": (32, 32),
        "blk.0.ffn_norm.weight": (32,),
        "blk.0.ffn_gate.weight": (32, 64),
        "blk.0.ffn_up.weight": (32, 64),
        "blk.0.ffn_down.weight": (64, 32),
    }
    for name, tensor in tensors.items():
        assert tensor.tensor_type.name == ("F32" if name.endswith("norm.weight") else kind)
    weights = dict(to_gguf.read_safetensors(tiny / "model.safetensors"))
    stored = gguf.dequantize(tensors["blk.0.attn_k.weight"].data, tensors["blk.0.attn_k.weight"].tensor_type)
    wanted = to_gguf.permute_rope(weights["model.layers.0.self_attn.k_proj.weight"], 1)
    np.testing.assert_allclose(stored, wanted, atol={"F32": 0, "F16": 2e-3, "Q8_0": 2e-2}[kind])


def test_metadata(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    to_gguf.convert(tiny, out)
    reader = gguf.GGUFReader(out)
    fields = reader.fields
    assert text(fields["general.name"]) == "pipesd-demo-tiny"
    assert text(fields["general.architecture"]) == "llama"
    assert text(fields["tokenizer.chat_template"]) == "{{ messages }}"
    assert text(fields["tokenizer.ggml.model"]) == "gpt2"
    sizes = {k: number(reader, f"llama.{k}") for k in ("embedding_length", "block_count", "attention.head_count_kv")}
    assert sizes == {"embedding_length": 32, "block_count": 1, "attention.head_count_kv": 1}
    ids = {k: number(reader, f"tokenizer.ggml.{k}_token_id") for k in ("bos", "eos", "eot", "padding")}
    assert ids == {"bos": 0, "eos": 0, "eot": 1, "padding": 0}
    assert not number(reader, "tokenizer.ggml.add_bos_token")
    tokens = fields["tokenizer.ggml.tokens"]
    assert [bytes(tokens.parts[i]).decode() for i in tokens.data] == [
        "<|endoftext|>",
        "<|end|>",
        "a",
        "b",
        "ab",
        "plain",
        "Ġ",
        "[unused7]",
    ]
    types = fields["tokenizer.ggml.token_type"]
    kinds = [gguf.TokenType(int(types.parts[i][0])).name for i in types.data]
    assert kinds == ["CONTROL", "CONTROL", "NORMAL", "NORMAL", "NORMAL", "USER_DEFINED", "NORMAL", "UNUSED"]
    merges = fields["tokenizer.ggml.merges"]
    assert [bytes(merges.parts[i]).decode() for i in merges.data] == ["a b", "b a"]


def test_failure_leaves_the_old_file_and_nothing_else(tiny: Path, tmp_path: Path) -> None:
    out_dir = tmp_path / "out"
    out_dir.mkdir()
    out = out_dir / "model.gguf"
    out.write_bytes(b"old")
    write_safetensors(tiny / "model.safetensors", {"model.strange.weight": np.zeros((2, 2), dtype="f4")})
    assert to_gguf.main([str(tiny), str(out)]) == 1
    assert out.read_bytes() == b"old"
    assert list(out_dir.iterdir()) == [out]


@pytest.mark.parametrize("name", ["target", "draft"])
def test_shipped_folders_convert(name: str, tmp_path: Path) -> None:
    folder = DEMO / name
    out = tmp_path / "out.gguf"
    to_gguf.convert(folder, out, "F16")
    reader = gguf.GGUFReader(out)
    config = json.loads((folder / "config.json").read_text())
    assert text(reader.fields["general.name"]) == f"pipesd-demo-{name}"
    assert len(reader.tensors) == 2 + 9 * config["num_hidden_layers"]
    assert len(reader.fields["tokenizer.ggml.tokens"].data) == config["vocab_size"]
    template = json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    assert text(reader.fields["tokenizer.chat_template"]) == template
