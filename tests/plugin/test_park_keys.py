from __future__ import annotations

from typing import Any

import pytest

from pipesd_vllm import park_keys


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(park_keys.SECRET_VARIABLE, "s3cret")


def test_a_key_is_ours() -> None:
    key = park_keys.new_key()
    assert park_keys.is_ours(key)
    assert park_keys.new_key() != key


@pytest.mark.parametrize("key", ["", "abc", "abc.def", None, 5, ["a.b"], "é.é"])
def test_anything_else_is_not(key: Any) -> None:
    assert not park_keys.is_ours(key)


def test_nor_is_the_key_of_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    key = park_keys.new_key()
    monkeypatch.setenv(park_keys.SECRET_VARIABLE, "another")
    assert not park_keys.is_ours(key)


def test_a_secret_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    key = park_keys.new_key()
    park_keys.ensure_secret()
    assert park_keys.is_ours(key)
    monkeypatch.delenv(park_keys.SECRET_VARIABLE)
    park_keys.ensure_secret()
    assert park_keys.is_ours(park_keys.new_key())
