from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from repository import ROOT

from pipesd_core.errors import ConfigError
from pipesd_gateway.config import KEYS, GatewayConfig, load

MODEL = {"model": "m.gguf"}


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def test_defaults() -> None:
    config = load(MODEL, {}, None)
    assert config == GatewayConfig(model=Path("m.gguf"))
    assert (config.host, config.port, config.api_keys) == ("127.0.0.1", 8100, frozenset())


def test_flags_beat_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "g.toml", 'model = "f.gguf"\nport = 1\ncontext = 99\npark_timeout = 2\n')
    config = load({"model": "m.gguf", "port": 2}, {}, file)
    assert (config.model, config.port, config.context, config.park_timeout) == (Path("m.gguf"), 2, 99, 2.0)


@pytest.mark.parametrize(
    ("name", "whole"),
    [(f.name, f.type is int) for f in msgspec.structs.fields(GatewayConfig) if f.type in (int, float)],
)
def test_every_number_has_bounds(tmp_path: Path, name: str, *, whole: bool) -> None:
    for value in ("1" + 17 * "0", "-" + 18 * "1") if whole else ("1e300", "-1e300", "nan", "inf"):
        with pytest.raises(ConfigError, match=f"{name} must lie between"):
            load({}, {}, write(tmp_path / "g.toml", f'model = "m"\n{name} = {value}\n'))


def test_the_nearest_source_of_keys_wins(tmp_path: Path) -> None:
    flag = write(tmp_path / "flag", "# mine\n a \n\nb\n")
    in_file = write(tmp_path / "in_file", "c")
    file = write(tmp_path / "g.toml", f'model = "f.gguf"\napi_key_file = "{in_file}"\n')
    environ = {KEYS.variable: "d"}
    assert load({"api_key_file": str(flag)}, environ, file).api_keys == {"a", "b"}
    assert load({}, environ, file).api_keys == {"d"}
    assert load({}, {}, file).api_keys == {"c"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle = 1", r"g\.toml: unknown key 'modle'; the nearest known one is 'model'"),
        ("model = 1", r"g\.toml.*path.*\$\.model"),
        ('model = ""', r"path.*\$\.model"),
        ('model = "m"\nport = "x"', r"Expected `int`.*\$\.port"),
        ('model = "m"\nport = 65536', r"port must lie between 0 and 65535, but is 65536"),
        ('model = "m"\nn_seq = 0', r"n_seq must lie between 1"),
        ('model = "m"\ncontext = 1', r"context must lie"),
        ('model = "m"\npark_timeout = nan', r"park_timeout must lie"),
        ('model = "m"\nmax_sessions_per_key = 0', r"max_sessions_per_key must lie between 1 and 1048576, but is 0"),
        ('model = "m"\nlog_level = "loud"', r"log_level must be one of debug"),
        ('model = "m"\napi_keys = ["x"]', r"unknown key .api_keys.*api_key_file"),
        ('model = "m"\napi_key_file = 1', r"api_key_file must be a path"),
        ('model = "m"\napi_key_file = "/nowhere/keys"', r"cannot read the API key file /nowhere/keys"),
        ("model = ", r"g\.toml: "),
        ("", r"no model: give --model"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load({}, {}, write(tmp_path / "g.toml", text))
    assert re.search(message, str(error.value))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration file .*nothing"):
        load({}, {}, tmp_path / "nothing.toml")
    (tmp_path / "g.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"g\.toml"):
        load({}, {}, tmp_path / "g.toml")


@pytest.mark.parametrize("keys", ["", "\n# none\n"])
def test_no_key_where_one_was_meant_is_an_error(tmp_path: Path, keys: str) -> None:
    with pytest.raises(ConfigError, match="holds no API key"):
        load(MODEL | {"api_key_file": str(write(tmp_path / "keys", keys))}, {}, None)
    with pytest.raises(ConfigError, match=KEYS.variable):
        load(MODEL, {KEYS.variable: keys}, None)


def test_the_ready_configuration_works_and_shows_the_defaults() -> None:
    config = load({}, {}, ROOT / "configs" / "gateway.toml")
    ready: dict[str, Any] = {name: getattr(config, name) for name in config.__struct_fields__ if name != "model"}
    default = GatewayConfig(model=config.model)
    assert ready == {name: getattr(default, name) for name in ready}
