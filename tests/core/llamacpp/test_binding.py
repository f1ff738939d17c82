from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
import pytest
from repository import BUILD

from pipesd_core.errors import DecodeError, ModelLoadError
from pipesd_core.llamacpp import binding, memory
from pipesd_core.llamacpp.binding import Context, Model

pytestmark = pytest.mark.e2e

TARGET = BUILD / "demo-target-F32.gguf"
DRAFT = BUILD / "demo-draft-Q8_0.gguf"


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model(TARGET) as model:
        yield model


@pytest.fixture
def context(model: Model) -> Iterator[Context]:
    with Context(model, n_ctx=1024, n_seq=2, n_batch=64) as context:
        yield context


def test_what_a_model_says_about_itself(model: Model) -> None:
    assert (model.n_vocab, model.n_ctx_train) == (4096, 2048)
    assert model.eog_ids == (0, 3)
    assert (model.bos, model.eos, model.adds_bos) == (0, 0, False)
    assert "demo" in model.name
    assert model.chat_template is not None
    assert "<|assistant|>" in model.chat_template


@pytest.mark.parametrize("text", ["", "def f(x):\n\treturn x", "naïve 日本語 🙂\0", "a" * 5000])
def test_pieces_of_tokens_give_the_text_back(model: Model, text: str) -> None:
    assert b"".join(model.piece(token, special=False) for token in model.tokenize(text, special=False)) == text.encode()


def test_control_tokens_only_where_they_are_wanted(model: Model) -> None:
    assert model.tokenize("<|end|>", special=True) == [3]
    typed = model.tokenize("<|end|>", special=False)
    assert len(typed) > 1
    assert 3 not in typed
    assert model.piece(3, special=True) == b"<|end|>"
    assert model.piece(3, special=False) == b""


def test_a_piece_may_be_longer_than_the_first_buffer(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [piece for _, piece in model.vocabulary()]
    monkeypatch.setattr(binding, "_PIECE_BYTES", 2)
    assert [piece for _, piece in model.vocabulary()] == whole


@pytest.mark.parametrize("token", [-1, 4096])
def test_no_piece_outside_the_vocabulary(model: Model, token: int) -> None:
    with pytest.raises(ValueError, match=f"{token} is outside the vocabulary of 4096"):
        model.piece(token, special=True)


def test_target_and_draft_have_one_fingerprint(model: Model) -> None:
    with Model(DRAFT) as draft:
        assert draft.fingerprint() == model.fingerprint()
    assert len(model.fingerprint()) == 16


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no model file"),
        (b"", "not a GGUF file: it begins with b''"),
        (b"Hello, this is a text", "not a GGUF file: it begins with b'Hell'"),
        (b"GGUF", "could not be loaded: .*damaged"),
        (b"GGUF" + bytes(100), "could not be loaded: .*damaged"),
        ("half", "could not be loaded: .*damaged"),
        ("header", "could not be loaded: .*damaged"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, content: bytes | str | None, message: str) -> None:
    path = tmp_path / "model.gguf"
    if isinstance(content, str):
        whole = DRAFT.read_bytes()
        content = whole[: len(whole) // 2] if content == "half" else whole[:5000]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelLoadError, match=message) as caught:
        Model(path)
    assert str(path) in str(caught.value)


def test_a_directory_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"is a directory: name one \.gguf file"):
        Model(tmp_path)


def test_errors_of_llama_cpp_are_logged_as_errors(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    with caplog.at_level(logging.DEBUG, "pipesd_core.llamacpp.binding"), pytest.raises(ModelLoadError):
        Model(tmp_path / "bad.gguf")
    assert any(record.levelno == logging.ERROR for record in caplog.records)


def test_a_good_load_logs_nothing_above_debug(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "pipesd_core.llamacpp.binding"), Model(DRAFT):
        pass
    assert caplog.records
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}


def test_the_target_engine_leaves_a_gpu_alone_whatever_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipesd_core.llamacpp.runtime.decoder import TargetDecoder

    seen: list[int | bool] = []
    load, make_context = lib.llama_model_load_from_file, lib.llama_init_from_model

    def loading(path: bytes, params: Any) -> Any:
        seen.append(params.n_gpu_layers)
        return load(path, params)

    def making(handle: Any, params: Any) -> Any:
        seen.append(params.op_offload)
        return make_context(handle, params)

    monkeypatch.setattr(lib, "llama_model_load_from_file", loading)
    monkeypatch.setattr(lib, "llama_init_from_model", making)
    TargetDecoder(DRAFT, n_seq=1).model.close()
    assert seen == [0, False]


def test_decode_and_rows(context: Context) -> None:
    assert context.n_ctx_seq == 512
    assert context.decode([10, 11, 12, 10, 11], [0, 1, 2, 0, 1], [0, 0, 0, 1, 1], [False, True, True, False, True])
    assert context.row(1).shape == (4096,)
    assert np.array_equal(context.row(1), context.row(4))
    assert not np.array_equal(context.row(1), context.row(2))
    with pytest.raises(DecodeError, match="row 0 has no logits"):
        context.row(0)
    with pytest.raises(ValueError, match="read-only"):
        context.row(1)[0] = 1
    assert (context.seq_length(0), context.seq_length(1)) == (3, 2)


def test_truncating_and_decoding_again_is_bit_identical(context: Context) -> None:
    ids = list(range(20, 60))
    context.decode(ids, range(40), 0, True)
    first = context.row(39).copy()
    context.truncate(0, 30)
    assert context.seq_length(0) == 30
    context.decode(ids[30:], range(30, 40), 0, True)
    assert np.array_equal(context.row(9), first)


@pytest.mark.parametrize(
    ("tokens", "positions", "seqs", "message"),
    [
        ([], [], 0, "1 to 64 rows, but was given 0"),
        ([1] * 65, range(65), 0, "1 to 64 rows, but was given 65"),
        ([1, 2], [0], 0, "2 tokens, but 1 positions"),
        ([4096, 1], [0, 1], 0, "failed with -1"),
        ([-1, 1], [0, 1], 0, "failed with -1"),
        ([1, 2], [0, 1], 2, "failed with -1"),
        ([1, 2], [5, 9], 0, "failed with -1"),
    ],
)
def test_rows_that_llama_cpp_would_not_survive_or_refuses(
    context: Context, tokens: list[int], positions: list[int], seqs: int, message: str
) -> None:
    with pytest.raises(DecodeError, match=message):
        context.decode(tokens, positions, seqs, True)
    assert context.decode([1, 2], [0, 1], 0, True)


def test_a_full_context_is_an_error_and_can_be_used_again(context: Context) -> None:
    for begin in range(0, 512, 64):
        context.decode([7] * 64, range(begin, begin + 64), 0, False)
    with pytest.raises(DecodeError, match="holds at most 512 positions"):
        context.decode([7, 7], [512, 513], 0, True)
    context.truncate(0, 100)
    assert context.decode([7, 7], [100, 101], 0, True)


@pytest.mark.parametrize("seq", [-1, 2])
def test_no_such_sequence(context: Context, seq: int) -> None:
    with pytest.raises(DecodeError, match="0 to 1"):
        context.truncate(seq, 0)
    with pytest.raises(DecodeError, match="0 to 1"):
        context.seq_length(seq)


def test_abort_from_another_thread(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    with Context(model, n_ctx=2048, n_seq=1, n_batch=1024) as context:
        context.decode([7] * 63, range(63), 0, False)
        aborted_at: list[float] = []

        def abort() -> None:
            aborted_at.append(time.perf_counter())
            context.request_abort()

        timer = threading.Timer(0.02, abort)
        timer.start()
        done = context.decode([7] * 1024, range(63, 63 + 1024), 0, False)
        returned_at = time.perf_counter()
        timer.join()
        assert not done
        assert returned_at - aborted_at[0] < 1
        assert context.seq_length(0) == 63
        assert not context.decode([7, 7], [63, 64], 0, True)
        context.clear_abort()
        assert context.decode([7, 7], [63, 64], 0, True)
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


def test_closed_things_raise() -> None:
    model = Model(DRAFT)
    context = Context(model, n_ctx=256, n_seq=1, n_batch=8)
    context.decode([5, 6], [0, 1], 0, True)
    model.close()  # closes the context first
    model.close()
    context.close()
    for use in (
        lambda: context.decode([5, 6], [2, 3], 0, True),
        lambda: context.row(0),
        lambda: context.truncate(0, 0),
        lambda: context.seq_length(0),
        lambda: model.tokenize("x", special=False),
        lambda: model.piece(5, special=False),
        lambda: list(model.vocabulary()),
        lambda: Context(model, n_ctx=256, n_seq=1, n_batch=8),
    ):
        with pytest.raises(DecodeError, match="has been closed"):
            use()
    context.request_abort()
    context.clear_abort()


def test_closing_waits_for_a_running_decode(model: Model) -> None:
    context = Context(model, n_ctx=2048, n_seq=1, n_batch=1024)

    def decode() -> None:
        with contextlib.suppress(DecodeError):  # a slow machine may close before it begins
            context.decode([7] * 1024, range(1024), 0, False)

    running = threading.Thread(target=decode)
    running.start()
    time.sleep(0.02)
    context.close()
    running.join(10)
    assert not running.is_alive()


def test_a_context_that_does_not_fit_is_refused_before_it_is_made(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 64 * 2**20)
    made: list[object] = []
    monkeypatch.setattr(lib, "llama_init_from_model", lambda *_: made.append(None))
    with pytest.raises(ModelLoadError, match="the largest that fits is a context of"):
        Context(model, n_ctx=4_000_000, n_seq=4, n_batch=64)
    assert not made


def test_the_estimate_of_a_context_is_what_llama_cpp_takes(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), Context(model, n_ctx=4096, n_seq=4, n_batch=252):
        taken = re.findall(r"(?:KV|compute) buffer size = +([\d.]+) MiB", caplog.text)
    estimate = model.shape.context_bytes(1024, 4, 252) / 2**20
    assert len(taken) == 2
    assert sum(map(float, taken)) <= estimate <= 2 * sum(map(float, taken))


def test_no_more_threads_than_cores(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_cores", lambda: 2)
    with Context(model, n_ctx=256, n_seq=1, n_batch=2, threads=256) as context:
        assert lib.llama_n_threads(context._handle) == 2
