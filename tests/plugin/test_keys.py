from __future__ import annotations

from typing import Any

import pytest

from pipesd_vllm import keys


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(keys.SECRET_VARIABLE, "s3cret")


def test_a_key_is_ours() -> None:
    key = keys.new_key()
    assert keys.is_ours(key)
    assert keys.new_key() != key


@pytest.mark.parametrize("key", ["", "abc", "abc.def", None, 5, ["a.b"], "é.é"])
def test_anything_else_is_not(key: Any) -> None:
    assert not keys.is_ours(key)


def test_nor_is_the_key_of_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    key = keys.new_key()
    monkeypatch.setenv(keys.SECRET_VARIABLE, "another")
    assert not keys.is_ours(key)


def test_a_secret_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    key = keys.new_key()
    keys.ensure_secret()
    assert keys.is_ours(key)
    monkeypatch.delenv(keys.SECRET_VARIABLE)
    keys.ensure_secret()
    assert keys.is_ours(keys.new_key())
