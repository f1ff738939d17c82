"""The rules of configuration, on a struct of its own; the programs' are in test_gateway_config, test_agent_config."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from msgspec import Struct

from pipesd_core.errors import ConfigError
from pipesd_core.service.settings import KeySource, Program, check_log_level, load, variables, within

PROGRAM = Program("PIPESD_TEST_", (KeySource("keys", "key_file", "PIPESD_TEST_KEYS"),))


class Inner(Struct, frozen=True, forbid_unknown_fields=True):
    a: int = 1


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    count: int = 1
    file: Path | None = None
    inner: Inner = Inner()
    words: tuple[str, ...] = ()
    keys: frozenset[str] = frozenset()
    key_file: Path | None = None


def toml(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def test_each_source_alone_and_together(tmp_path: Path) -> None:
    assert load(Config, PROGRAM, {}, {}, None) == Config()
    file = toml(tmp_path / "c.toml", 'count = 2\nfile = "a/b"\n[inner]\na = 3\n')
    assert load(Config, PROGRAM, {}, {}, file) == Config(2, Path("a/b"), Inner(3))
    assert load(Config, PROGRAM, {"count": 9}, {}, file) == Config(9, Path("a/b"), Inner(3))


def test_every_setting_is_a_variable_between_file_and_flags(tmp_path: Path) -> None:
    file = toml(tmp_path / "c.toml", 'count = 2\nfile = "a"\nwords = ["x"]\n')
    environ = {
        "COUNT": "7",
        "PIPESD_TEST_CONFIG": str(file),
        "PIPESD_TEST_FILE": "b",
        "PIPESD_TEST_WORDS": "u, v w",
        "PIPESD_TEST_KEYS": " a \n#b\n\nc",
    }
    keys = frozenset({"a", "c"})
    assert load(Config, PROGRAM, {}, environ, None) == Config(2, Path("b"), words=("u", "v", "w"), keys=keys)
    environ["PIPESD_TEST_COUNT"] = "3"
    assert load(Config, PROGRAM, {"file": "c"}, environ, None).file == Path("c")
    assert load(Config, PROGRAM, {}, environ, None).count == 3
    assert load(Config, PROGRAM, {"count": 4}, environ, None).count == 4
    assert load(Config, PROGRAM, {}, environ, toml(tmp_path / "d.toml", 'words = ["z"]')).file == Path("b")
    assert variables(Config, PROGRAM) == {
        "PIPESD_TEST_COUNT": "count",
        "PIPESD_TEST_FILE": "file",
        "PIPESD_TEST_WORDS": "words",
        "PIPESD_TEST_KEY_FILE": "key_file",
    }


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PIPESD_TEST_CUONT", "1", "unknown environment variable PIPESD_TEST_CUONT; .* is PIPESD_TEST_COUNT$"),
        ("PIPESD_TEST_INNER", "1", "unknown environment variable PIPESD_TEST_INNER"),
        ("PIPESD_KEYS", "1", "unknown environment variable PIPESD_KEYS; .* is PIPESD_TEST_KEYS$"),
        ("PIPESD_TEST_COUNT", "many", "variable PIPESD_TEST_COUNT: Expected `int`.*, but is 'many'"),
        ("PIPESD_TEST_FILE", "", "variable PIPESD_TEST_FILE: Expected a path"),
        ("PIPESD_TEST_KEY_FILE", "x", "PIPESD_TEST_KEYS and the variable for key_file are both set"),
    ],
)
def test_a_variable_that_is_wrong_is_named(name: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(Config, PROGRAM, {}, {"PIPESD_TEST_KEYS": "k", name: value}, None)


def test_variables_of_our_other_programs_are_theirs() -> None:
    environ = {"PIPESD_GATEWAY_NAME": "x", "PIPESD_AGENT_NO_SUCH": "x", "PIPESD_VLLM_SECRET": "x", "PATH": "x"}
    assert load(Config, PROGRAM, {}, environ, None) == Config()


def test_the_nearest_key_of_a_table_is_named_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'inner\.aa'; the nearest known one is 'inner\.a'$"):
        load(Config, PROGRAM, {}, {}, toml(tmp_path / "c.toml", "[inner]\naa = 3"))


def test_the_keys_themselves_are_no_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'keys'; the nearest known one is 'key_file'$"):
        load(Config, PROGRAM, {}, {}, toml(tmp_path / "c.toml", 'keys = ["secret"]'))


def test_messages_name_the_file_but_no_key(tmp_path: Path) -> None:
    file = toml(tmp_path / "c.toml", "[inner]\nb = 1")
    with pytest.raises(ConfigError, match=r"c\.toml: unknown key 'inner\.b'"):
        load(Config, PROGRAM, {}, {}, file)
    with pytest.raises(ConfigError, match="count") as error:
        load(Config, PROGRAM, {"count": "x"}, {"PIPESD_TEST_KEYS": "secret"}, None)
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
        load(Config, PROGRAM, {"key_file": str(tmp_path)}, {}, None)
    (tmp_path / "k").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load(Config, PROGRAM, {"key_file": str(tmp_path / "k")}, {}, None)
