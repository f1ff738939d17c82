"""The rules of configuration, on a struct of its own; the programs' are in test_gateway_config, test_agent_config."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from msgspec import Struct

from pipesd_core.errors import ConfigError
from pipesd_core.service.settings import KeySource, Program, check_log_level, load, read_keys, variables, within

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
    (tmp_path / "k").write_bytes(b"\xff\xff")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load(Config, PROGRAM, {"key_file": str(tmp_path / "k")}, {}, None)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_files_of_other_editors(mark: str, end: str, tmp_path: Path) -> None:
    """A mark in front of the first key made it another one, which no client could send."""
    (tmp_path / "keys").write_bytes(f"{mark}first{end}# a comment{end}{end} second \t{end}".encode())
    assert read_keys(tmp_path / "keys") == {"first", "second"}
    (tmp_path / "c.toml").write_bytes(f"{mark}count = 2{end}words = ['a',{end}'b']{end}[inner]{end}a = 3".encode())
    assert load(Config, PROGRAM, {}, {}, tmp_path / "c.toml") == Config(2, words=("a", "b"), inner=Inner(3))


@pytest.mark.parametrize(
    ("saved", "why"),
    [("é = 1".encode("utf-16"), "UTF-16 text"), ("é = 1".encode("latin-1"), "not UTF-8 text: its byte 1 is 0xe9")],
)
def test_files_of_another_encoding(saved: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(saved)
    for source in ({"key_file": str(tmp_path / "f")}, {"file": None}):
        config = None if "key_file" in source else tmp_path / "f"
        with pytest.raises(ConfigError, match=f" is {why}; save it as UTF-8"):
            load(Config, PROGRAM, source, {}, config)


@pytest.mark.parametrize("odd", ["\u200b", "\u00a0", "\ufeff", "\u2028", "\x85", "\x1c", "\x00", "\x7f", "é"])
def test_keys_that_no_client_could_send(odd: str, tmp_path: Path) -> None:
    """Most of them do not even show in an editor; the message shows nothing of the key."""
    (tmp_path / "keys").write_bytes(f"good\nsecret{odd}\n".encode())
    with pytest.raises(ConfigError) as error:
        read_keys(tmp_path / "keys")
    why = (
        "NUL bytes"
        if odd == "\x00"
        else f"/keys, line 2: a key must be printable ASCII, but this one has U+{ord(odd):04X}"
    )
    assert why in str(error.value)
    with pytest.raises(ConfigError, match="the environment variable PIPESD_TEST_KEYS, line 1: a key must be") as error:
        load(Config, PROGRAM, {}, {"PIPESD_TEST_KEYS": f"secret{odd}"}, None)
    assert "secret" not in str(error.value)


def test_a_file_of_tables_without_end(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"c\.toml: "):
        load(Config, PROGRAM, {}, {}, toml(tmp_path / "c.toml", f"words = {'[' * 5000}"))
