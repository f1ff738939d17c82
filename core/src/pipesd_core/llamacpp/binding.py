"""A thin, typed layer over llama-cpp-python's low-level API: the only module that imports llama_cpp.

Shared by the embedded engine and by the edge agent's drafter. One thread owns a `Context`; a `Model` may be read
(tokenize, piece) from any thread. What llama.cpp would answer with an assertion (SIGABRT) or a stray pointer (SIGSEGV)
is checked here and raised instead; tests/core/llamacpp/test_binding.py tries each of these on the real library.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipesd_core.errors import DecodeError, ModelLoadError
from pipesd_core.llamacpp.constraint import Constraint, Grammar, Vocabulary
from pipesd_core.llamacpp.memory import ContextShape, check_fits, fitted_threads
from pipesd_core.protocol.fingerprint import fingerprint

try:
    import llama_cpp.llama_cpp as lib
except (OSError, RuntimeError) as error:  # its library: not there, or not to be loaded
    folder = os.environ.get("LLAMA_CPP_LIB_PATH")
    because = f"; the environment variable LLAMA_CPP_LIB_PATH names {folder!r}: correct or unset it" if folder else ""
    raise ModelLoadError(f"llama.cpp cannot be loaded: {error}{because}") from error

log = logging.getLogger(__name__)

_MAGIC: Final = b"GGUF"
_NULL_TOKEN: Final = -1
_PIECE_BYTES: Final = 64
"""First buffer for a token's bytes; most fit, and a longer one gets another."""
_RC_CONTEXT_FULL: Final = 1
_RC_ABORTED: Final = 2
_PADDING: Final = lib.LLAMA_TOKEN_ATTR_UNUSED | lib.LLAMA_TOKEN_ATTR_UNKNOWN

Int32s = NDArray[np.int32] | Sequence[int]

# ---- logging: llama.cpp's levels are 1 debug, 2 info, 3 warning, 4 error, 5 continuation of a line ----

_ERROR: Final = 4
_LEVELS: Final = {3: logging.WARNING, _ERROR: logging.ERROR}
_recent_errors: deque[str] = deque(maxlen=3)
_load_lock = threading.Lock()


class _Decoding(threading.local):
    """The abort flag of the decode that this thread is in: what it logs about an abort is no error."""

    stop: NDArray[np.uint8] | None = None


_decoding = _Decoding()


def _on_log(level: int, text: bytes | None, _user: Any) -> None:
    line = (text or b"").decode("utf-8", "replace").strip()
    if not line:
        return
    if _decoding.stop is not None and _decoding.stop[0]:
        level = 0
    if level == _ERROR:
        _recent_errors.append(line)
    log.log(_LEVELS.get(level, logging.DEBUG), "%s", line)


_log_callback: Final = lib.llama_log_callback(_on_log)  # kept for the life of the process: C holds its address


@functools.cache
def _start_backend() -> None:
    # llama_cpp sets a callback of its own when it is imported, one that swallows real errors; replace it.
    lib.llama_log_set(_log_callback, ctypes.c_void_p())
    lib.llama_backend_init()


# ---- abort: libc's strlen as llama.cpp's abort callback ----
# llama.cpp asks `bool (*)(void *data)` about 140 times a token whether to stop; in Python that would take the GIL each
# time. strlen has the same calling convention: on a two-byte buffer it returns 0 while the first byte is 0 and 1 once
# it is 1 (the second stays 0), and the low byte of that is the bool. So an abort is one byte written by any thread.
_abort_callback: Final = lib.ggml_abort_callback(ctypes.cast(ctypes.CDLL(None).strlen, ctypes.c_void_p).value or 0)

# A second prototype of the same function that returns the bare address: no POINTER object per call.
_logits_address: Final = lib._lib["llama_get_logits_ith"]
_logits_address.restype = ctypes.c_void_p
_logits_address.argtypes = [ctypes.c_void_p, ctypes.c_int32]


class Model:
    """A GGUF model file, loaded on the CPU or, as far as this llama.cpp can, on a GPU.

    Args:
        gpu_layers: how many of the last layers a GPU computes, the output counted as one; too many or -1: all. The
            embedded engine keeps 0: that logits do not depend on the batch (`runtime/rows.py`) is proven on CPUs only.

    Raises ModelLoadError when the file is missing, is no GGUF file, is damaged, or is of a kind that cannot roll back.
    """

    # use_extra_bufts stays False on purpose: with it llama.cpp repacks quantised weights for AMX, and a native build by
    # GCC 12 then dies of SIGILL on hosts that have AMX: the compiler drops stores into the tile configuration.
    def __init__(self, path: str | Path, *, gpu_layers: int = 0, use_extra_bufts: bool = False) -> None:
        self.path = Path(path)
        self._handle: Any = None
        _check_file(self.path)
        _start_backend()
        params = lib.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        if gpu_layers and not lib.llama_supports_gpu_offload():
            log.warning(
                "gpu_layers is %d, but this llama.cpp finds no GPU or was compiled without GPU support: %s stays on "
                "the CPU. How to compile it: docs/real_pair.md, section 4",
                gpu_layers,
                self.path.name,
            )
        params.use_extra_bufts = use_extra_bufts
        with _load_lock:
            _recent_errors.clear()
            self._handle = lib.llama_model_load_from_file(str(self.path).encode(), params)
            reason = "; ".join(_recent_errors)
        if not self._handle:
            raise ModelLoadError(
                f"{self.path} could not be loaded: {reason or 'llama.cpp gave no reason'}. The file is damaged or of "
                "an architecture that this llama.cpp does not know: fetch or convert it again"
            )
        self._uses_gpu: Final = gpu_layers != 0
        self._gpu_layers: Final = self._used_gpu_layers(gpu_layers)
        self._contexts: weakref.WeakSet[Context] = weakref.WeakSet()
        self._vocab: Any = lib.llama_model_get_vocab(self._handle)
        self.n_vocab: Final = lib.llama_vocab_n_tokens(self._vocab)
        self.n_ctx_train: Final = lib.llama_model_n_ctx_train(self._handle)
        self.name: Final = self._metadata("general.name") or self.path.stem
        self.chat_template: Final = self._chat_template(None)
        self.tool_template: Final = self._chat_template(b"tool_use")
        """A chat template that the file has beside the usual one, for chats with tools."""
        self.bos: Final = _token_or_none(lib.llama_vocab_bos(self._vocab))
        self.eos: Final = _token_or_none(lib.llama_vocab_eos(self._vocab))
        self.adds_bos: Final = bool(lib.llama_vocab_get_add_bos(self._vocab))
        self.eog_ids: Final = tuple(t for t in range(self.n_vocab) if lib.llama_vocab_is_eog(self._vocab, t))
        self._refuse_unusable()

    def _refuse_unusable(self) -> None:
        problem = None
        if self.n_vocab == 0:
            problem = "it has no vocabulary"
        elif lib.llama_model_is_recurrent(self._handle) or lib.llama_model_is_hybrid(self._handle):
            problem = "it is recurrent, and a recurrent state cannot be rolled back to before a rejected draft"
        elif lib.llama_model_has_encoder(self._handle) or not lib.llama_model_has_decoder(self._handle):
            problem = "it is not a decoder-only language model"
        if problem:
            self.close()
            raise ModelLoadError(f"{self.path} cannot be used: {problem}. Choose a decoder-only transformer model")

    def _chat_template(self, name: bytes | None) -> str | None:
        template = lib.llama_model_chat_template(self._handle, name)
        return None if template is None else template.decode("utf-8", "replace")

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model, its contexts first. Idempotent; must not race with a use of the model."""
        if not self._handle:
            return
        for context in list(getattr(self, "_contexts", ())):
            context.close()
        lib.llama_model_free(self._handle)
        self._handle = self._vocab = None

    def _used_gpu_layers(self, asked: int) -> int:
        if not asked or not lib.llama_supports_gpu_offload():
            return 0
        layers = int(lib.llama_model_n_layer(self._handle)) + 1  # with the output
        if asked > layers:
            log.warning("gpu_layers is %d, but %s has %d: %d are used", asked, self.path.name, layers, layers)
        return layers if asked < 0 else min(asked, layers)

    def _open_vocab(self) -> Any:
        if not self._handle:
            raise DecodeError(f"the model {self.path.name} has been closed")
        return self._vocab

    @property
    def shape(self) -> ContextShape:
        """What the memory of a context depends on."""
        handle = self._handle
        architecture = self._metadata("general.architecture")
        head = lib.llama_model_n_embd(handle) // max(1, lib.llama_model_n_head(handle))
        key, value = (
            int(self._metadata(f"{architecture}.attention.{name}_length") or head) for name in ("key", "value")
        )
        layers = max(0, lib.llama_model_n_layer(handle) - self._gpu_layers)
        return ContextShape(layers, lib.llama_model_n_head_kv(handle), key, value, self.n_vocab)

    def _metadata(self, key: str) -> str | None:
        size = 256
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = lib.llama_model_meta_val_str(self._handle, key.encode(), buffer, size)
            if length < 0:
                return None
            if length < size:
                return buffer.value.decode("utf-8", "replace")
            size = length + 1

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Token ids of a text; no BOS is put before it (see `adds_bos`).

        special: the text of a control token (`<|end|>`) becomes that token; False for what a user typed.
        """
        vocab = self._open_vocab()
        raw = text.encode()
        size = len(raw) + 8
        while True:
            ids = (ctypes.c_int32 * size)()
            count = lib.llama_tokenize(vocab, raw, len(raw), ids, size, False, special)
            if count >= 0:
                return ids[:count]
            size = -count

    def piece(self, token: int, *, special: bool) -> bytes:
        """The bytes of a token: possibly a part of a UTF-8 character. special: show control tokens, else b""."""
        vocab = self._open_vocab()
        if not 0 <= token < self.n_vocab:
            raise ValueError(f"token id {token} is outside the vocabulary of {self.n_vocab}")
        size = _PIECE_BYTES
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = lib.llama_token_to_piece(vocab, token, buffer, size, 0, special)
            if length >= 0:
                return buffer.raw[:length]
            size = -length

    def vocabulary(self) -> Iterator[tuple[int, bytes]]:
        """(id, bytes) of every id that the tokenizer can produce, ascending; padding ids are left out."""
        vocab = self._open_vocab()
        for token in range(self.n_vocab):
            if not lib.llama_vocab_get_attr(vocab, token) & _PADDING:
                yield token, self.piece(token, special=True)

    def constraint(self, grammar: Grammar) -> Constraint:
        """A constraint of texts of this model, at their beginning. Raises InvalidRequest."""
        return self._constraint_vocabulary.constraint(grammar)

    def prepare_constraints(self) -> None:
        """Make what the first constraint would make: 0.2 s for 50,000 tokens."""
        _ = self._constraint_vocabulary

    @functools.cached_property
    def _constraint_vocabulary(self) -> Vocabulary:
        vocab = self._open_vocab()
        hidden = _PADDING | lib.LLAMA_TOKEN_ATTR_CONTROL
        shown = [not lib.llama_vocab_get_attr(vocab, token) & hidden for token in range(self.n_vocab)]
        pieces = [self.piece(token, special=False) if shown[token] else b"" for token in range(self.n_vocab)]
        return Vocabulary(pieces, self.eog_ids)

    @functools.cached_property
    def _fingerprint(self) -> bytes:
        return fingerprint(self.vocabulary())

    def fingerprint(self) -> bytes:
        """16 bytes that are equal for models with equal vocabularies (architecture §4). Computed once."""
        return self._fingerprint


class Context:
    """A KV cache of `n_seq` separate sequences, and the decoding over it. One thread owns it.

    Flash attention, separate KV and a full-size SWA cache are fixed: only so are logits the same whatever the batch
    (see `runtime/rows.py`) and does rolling back work with every model. `close` waits for a running decode.

    Args:
        n_ctx: positions of all sequences together; read `n_ctx_seq` back, llama.cpp rounds.
        n_batch: most rows of one `decode`; also the size of llama.cpp's ubatch, so one decode is not cut by size.
        threads: fewer than the free cores: with two threads on busy cores a token took 228 ms instead of 0.8. No more
            than there are cores are used.

    Raises ModelLoadError where there is no memory for it, before it takes any.
    """

    def __init__(self, model: Model, *, n_ctx: int, n_seq: int, n_batch: int, threads: int = 1) -> None:
        model._open_vocab()
        check_fits(model.path.name, model.shape, n_ctx // n_seq, n_seq, n_batch, lib.llama_model_size(model._handle))
        self._handle: Any = None
        self._lock = threading.Lock()
        self._stop = np.zeros(2, dtype=np.uint8)
        params = lib.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_seq_max = n_seq
        params.n_batch = params.n_ubatch = n_batch
        params.n_threads = params.n_threads_batch = fitted_threads(threads)
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.kv_unified = False
        params.swa_full = True
        params.no_perf = True
        params.op_offload = model._uses_gpu  # else a GPU build computes large batches of a CPU model on the GPU
        params.abort_callback = _abort_callback
        params.abort_callback_data = self._stop.ctypes.data
        with _load_lock:
            _recent_errors.clear()
            self._handle = lib.llama_init_from_model(model._handle, params)
            reason = "; ".join(_recent_errors)
        if not self._handle:
            raise ModelLoadError(
                f"no context of {n_ctx} positions for {model.path}: {reason or 'llama.cpp gave no reason'}. "
                "Use a smaller context or fewer sequences"
            )
        model._contexts.add(self)
        self._model = model  # keeps the model alive as long as a context needs it
        self._memory: Any = lib.llama_get_memory(self._handle)
        self._row_type = ctypes.c_float * model.n_vocab
        self._rows: dict[int, NDArray[np.float32]] = {}
        self.n_seq: Final = n_seq
        self.n_batch: Final = lib.llama_n_batch(self._handle)
        self.n_ctx_seq: Final = lib.llama_n_ctx_seq(self._handle)
        self._make_batch()

    def _make_batch(self) -> None:
        """A llama_batch over arrays of ours: filled by slice assignment, nothing allocated per decode."""
        size = self.n_batch
        self._token = np.zeros(size, np.int32)
        self._pos = np.zeros(size, np.int32)
        self._seq = np.zeros(size, np.int32)
        self._wanted = np.zeros(size, np.int8)
        self._one = np.ones(size, np.int32)
        addresses = self._seq.ctypes.data + 4 * np.arange(size, dtype=np.uint64)
        self._seq_pointers = addresses.astype(np.uintp)  # row i: one sequence id, at _seq[i]

        def pointer(array: NDArray[Any], to: Any) -> Any:
            return ctypes.cast(array.ctypes.data, ctypes.POINTER(to))

        self._batch = lib.llama_batch(
            n_tokens=0,
            token=pointer(self._token, ctypes.c_int32),
            pos=pointer(self._pos, ctypes.c_int32),
            n_seq_id=pointer(self._one, ctypes.c_int32),
            seq_id=pointer(self._seq_pointers, ctypes.POINTER(ctypes.c_int32)),
            logits=pointer(self._wanted, ctypes.c_int8),
        )

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the cache. Idempotent; waits for a decode that runs in another thread (abort it first)."""
        with self._lock:
            if self._handle:
                self._rows.clear()
                lib.llama_free(self._handle)
                self._handle = self._memory = None

    def _open(self) -> Any:
        if not self._handle:
            raise DecodeError("the context has been closed")
        return self._handle

    def decode(
        self, tokens: Int32s, positions: Int32s, seqs: Int32s | int, wanted: Sequence[bool] | NDArray[np.int8] | bool
    ) -> bool:
        """Run the model over rows (token, position, sequence); logits of the wanted ones are then at `row`.

        Positions of a sequence must go on where its cache ends. A scalar `seqs` or `wanted` holds for every row.
        Returns True, or False when it was aborted: parts may be in the cache, ask `seq_length`.
        Raises DecodeError when llama.cpp refuses or fails; the cache is then as it was before.
        """
        n = len(tokens)
        if not 0 < n <= self.n_batch:
            raise DecodeError(f"a decode takes 1 to {self.n_batch} rows, but was given {n}")
        if n != len(positions):
            raise DecodeError(f"{n} tokens, but {len(positions)} positions")
        with self._lock:
            handle = self._open()
            self._token[:n] = tokens
            self._pos[:n] = positions
            self._seq[:n] = seqs
            self._wanted[:n] = wanted
            self._batch.n_tokens = n
            _decoding.stop = self._stop
            rc = lib.llama_decode(handle, self._batch)
            _decoding.stop = None
        if rc == _RC_ABORTED:
            return False
        if rc == _RC_CONTEXT_FULL:
            raise DecodeError(f"no room for {n} rows: a sequence holds at most {self.n_ctx_seq} positions")
        if rc:
            raise DecodeError(f"llama_decode of {n} rows failed with {rc}: wrong ids or positions, or out of memory")
        return True

    def row(self, index: int) -> NDArray[np.float32]:
        """Logits of row `index` of the last decode: (n_vocab,), read only, valid until the next decode."""
        with self._lock:
            address = _logits_address(self._open(), index)
        if not address:
            raise DecodeError(f"row {index} has no logits: not in the last decode, or not wanted")
        view = self._rows.get(address)
        if view is None:
            if len(self._rows) >= self.n_batch:  # the output buffer has moved: forget views into the old one
                self._rows.clear()
            view = np.ctypeslib.as_array(self._row_type.from_address(address))
            view.flags.writeable = False
            self._rows[address] = view
        return view

    def truncate(self, seq: int, length: int) -> None:
        """Keep positions below `length` of a sequence, drop the rest."""
        self._check_seq(seq)
        with self._lock:
            self._open()
            removed = lib.llama_memory_seq_rm(self._memory, seq, length, -1)
        if not removed:
            raise DecodeError(f"this model's cache cannot be cut back to {length} positions")

    def seq_length(self, seq: int) -> int:
        """Positions in the cache of a sequence."""
        self._check_seq(seq)
        with self._lock:
            self._open()
            return int(lib.llama_memory_seq_pos_max(self._memory, seq)) + 1

    def _check_seq(self, seq: int) -> None:
        if not 0 <= seq < self.n_seq:
            raise DecodeError(f"sequence {seq} does not exist: this context has 0 to {self.n_seq - 1}")

    def request_abort(self) -> None:
        """Make the running decode, and every later one, return False within milliseconds. From any thread."""
        self._stop[0] = 1

    def clear_abort(self) -> None:
        """Let decodes run again. From any thread."""
        self._stop[0] = 0


def _token_or_none(token: int) -> int | None:
    return None if token == _NULL_TOKEN else token


def _check_file(path: Path) -> None:
    """Check what can be checked without llama.cpp. Raises ModelLoadError that says what to do."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
    except FileNotFoundError:
        raise ModelLoadError(
            f"there is no model file {path}: check the path (`make models` makes those of the demo)"
        ) from None
    except IsADirectoryError:
        raise ModelLoadError(f"{path} is a directory: name one .gguf file in it") from None
    except OSError as error:
        raise ModelLoadError(f"the model file {path} cannot be read: {error.strerror}") from error
    if start != _MAGIC:
        raise ModelLoadError(
            f"{path} is not a GGUF file: it begins with {start!r}. Convert the model to GGUF, or fetch it again"
        )
