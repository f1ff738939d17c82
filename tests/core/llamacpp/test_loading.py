from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pipesd_core.errors import ModelLoadError
from pipesd_core.llamacpp.loading import announced


def test_a_model_is_announced_with_its_size_and_its_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    model = tmp_path / "x.gguf"
    model.write_bytes(bytes(3 * 2**19))
    with announced(model):
        assert caplog.messages == [f"loading {model} (1.5 MiB)"]
    assert caplog.messages[1].startswith(f"loaded {model} in 0.")


def test_one_that_is_not_there_is_not_said_to_be_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(ModelLoadError), announced(tmp_path / "x.gguf"):
        raise ModelLoadError("it is not there")
    assert caplog.messages == [f"loading {tmp_path / 'x.gguf'}"]
