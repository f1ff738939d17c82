"""The rules of configuration, on a struct of its own; the programs' are in test_gateway_config, test_agent_config."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from msgspec import Struct

from pipesd_gateway.exceptions import ConfigError
from pipesd_gateway.settings import KeySource, check_log_level, load, within

KEYS = KeySource("keys", "key_file", "TEST_KEYS")


class Inner(Struct, frozen=True, forbid_unknown_fields=True):
    a: int = 1


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    count: int = 1
    file: Path | None = None
    inner: Inner = Inner()
    keys: frozenset[str] = frozenset()


def toml(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def test_each_source_alone_and_together(tmp_path: Path) -> None:
    assert load(Config, KEYS, {}, {}, None) == Config()
    file = toml(tmp_path / "c.toml", 'count = 2\nfile = "a/b"\n[inner]\na = 3\n')
    assert load(Config, KEYS, {}, {}, file) == Config(2, Path("a/b"), Inner(3))
    assert load(Config, KEYS, {"count": 9}, {}, file) == Config(9, Path("a/b"), Inner(3))


def test_the_environment_is_asked_for_keys_alone() -> None:
    assert load(Config, KEYS, {}, {"COUNT": "7", "count": "7", "TEST_KEYS": " a \n#b\n\nc"}, None) == Config(
        keys=frozenset({"a", "c"})
    )


def test_the_keys_themselves_are_no_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'keys'; known are count, file, inner, key_file$"):
        load(Config, KEYS, {}, {}, toml(tmp_path / "c.toml", 'keys = ["secret"]'))


def test_messages_name_the_file_but_no_key(tmp_path: Path) -> None:
    file = toml(tmp_path / "c.toml", "[inner]\nb = 1")
    with pytest.raises(ConfigError, match=r"c\.toml: .*`b`.*\$\.inner"):
        load(Config, KEYS, {}, {}, file)
    with pytest.raises(ConfigError, match="count") as error:
        load(Config, KEYS, {"count": "x"}, {"TEST_KEYS": "secret"}, None)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("value", [-1, 11, math.nan, math.inf])
def test_bounds(value: float) -> None:
    with pytest.raises(ConfigError, match=f"n must lie between 0 and 10, but is {value}"):
        within("n", value, 0, 10)
    for good in (0, 10, 0.5):
        within("n", good, 0, 10)


def test_log_levels() -> None:
    check_log_level("debug")
    with pytest.raises(ConfigError, match="log_level must be one of debug, info, warning, error, but is 'DEBUG'"):
        check_log_level("DEBUG")


def test_a_key_file_that_is_a_directory_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"cannot read the API key file {tmp_path}"):
        load(Config, KEYS, {"key_file": str(tmp_path)}, {}, None)
    (tmp_path / "k").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load(Config, KEYS, {"key_file": str(tmp_path / "k")}, {}, None)
