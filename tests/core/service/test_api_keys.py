"""Who may pass, and what becomes of that when the key file changes."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from starlette.requests import HTTPConnection

from pipesd_core.errors import Unauthorized
from pipesd_core.service import api_keys as keys_module
from pipesd_core.service.api_keys import Keys


def connection(key: str | None) -> HTTPConnection:
    headers = [] if key is None else [(b"authorization", f"Bearer {key}".encode())]
    return HTTPConnection({"type": "http", "headers": headers})


def passes(keys: Keys, key: str | None) -> bool:
    try:
        return keys.authorize(connection(key)) == key
    except Unauthorized:
        return False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("pipesd_core.service.api_keys.time.monotonic", lambda: now[0])
    return now


def test_a_key_may_come_as_anthropic_s_clients_send_it() -> None:
    keys = Keys(frozenset({"k"}))

    def asked(*headers: tuple[bytes, bytes]) -> HTTPConnection:
        return HTTPConnection({"type": "http", "headers": list(headers)})

    assert keys.authorize(asked((b"x-api-key", b"k"))) == "k"
    both = (b"authorization", b"Bearer l"), (b"x-api-key", b"k")
    for headers in ([(b"x-api-key", b"l")], [(b"x-api-key", b"")], both):
        with pytest.raises(Unauthorized):
            keys.authorize(asked(*headers))


def test_without_keys_everybody_may_pass() -> None:
    assert Keys().authorize(connection("any")) is None
    assert not Keys().required


def test_one_of_several() -> None:
    keys = Keys(frozenset({"a", "b"}))
    assert [passes(keys, key) for key in ("a", "b", "c", "ab", None)] == [True, True, False, False, False]


def test_every_key_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(one)
        return one == other

    monkeypatch.setattr("pipesd_core.service.api_keys.hmac.compare_digest", compare)
    Keys(frozenset({"a", "b", "c"})).authorize(connection("a"))
    assert sorted(compared) == [b"a", b"b", b"c"]


def test_a_file_is_read_again_but_not_at_every_request(
    tmp_path: Path, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    file.write_text("old\n")
    keys = Keys(frozenset({"old"}), file)
    assert passes(keys, "old")
    file.write_text("new\nnewer\n")
    assert passes(keys, "old")  # within the second
    clock[0] += keys_module.CHECK_S
    with caplog.at_level(logging.INFO):
        assert [passes(keys, key) for key in ("old", "new", "newer")] == [False, True, True]
    assert caplog.messages == ["API keys reloaded: 2 new, 1 removed"]


@pytest.mark.parametrize("content", [None, "", "# none\n", b"\xff\xfe"])
def test_a_file_that_cannot_be_used_changes_nothing_and_is_said_once(
    tmp_path: Path, clock: list[float], caplog: pytest.LogCaptureFixture, content: str | bytes | None
) -> None:
    file = tmp_path / "keys"
    file.write_text("right")
    keys = Keys(frozenset({"right"}), file)
    assert passes(keys, "right")
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    for _ in range(3):
        clock[0] += keys_module.CHECK_S
        assert passes(keys, "right")
        assert not passes(keys, "wrong")
    (logged,) = caplog.messages
    assert logged.startswith("API keys not reloaded: ")
    assert "right" not in logged
    replacement = tmp_path / "next"
    replacement.write_text("wrong")
    os.replace(replacement, file)
    clock[0] += keys_module.CHECK_S
    assert passes(keys, "wrong")
    assert not passes(keys, "right")
