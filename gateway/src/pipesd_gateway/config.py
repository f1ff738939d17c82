"""Configuration of `pipesd-gateway serve`: one TOML file, one environment variable, flags; a flag beats the
environment, the environment beats the file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from pipesd_gateway.exceptions import ConfigError

API_KEY_VARIABLE: Final = "PIPESD_API_KEY"
LOG_LEVELS: Final = ("debug", "info", "warning", "error")


class GatewayConfig(Struct, frozen=True, kw_only=True):
    """What the gateway runs with. Raises ConfigError where a value cannot work.

    model: GGUF file of the target. name: its name in the API ("": the one that the file says). n_seq: sessions at
    once. context: tokens of each, prompt and answer together. threads: of llama.cpp. max_queue: requests that may wait
    for a session. park_timeout: seconds that a session waits for a silent edge. step_floor_ms: least time of an engine
    step, to emulate a bigger target. api_keys: empty means open.
    """

    model: Path
    host: str = "127.0.0.1"
    port: int = 8100
    name: str = ""
    n_seq: int = 4
    context: int = 2048
    threads: int = 1
    max_queue: int = 16
    park_timeout: float = 5.0
    step_floor_ms: float = 0.0
    log_level: str = "info"
    api_keys: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        _within("port", self.port, 0, 65535)
        _within("n_seq", self.n_seq, 1, 64)
        _within("context", self.context, 16, 2**20)
        _within("threads", self.threads, 1, 256)
        _within("max_queue", self.max_queue, 0, 4096)
        _within("park_timeout", self.park_timeout, 0.05, 3600)
        _within("step_floor_ms", self.step_floor_ms, 0, 60_000)
        if self.log_level not in LOG_LEVELS:
            raise ConfigError(f"log_level must be one of {', '.join(LOG_LEVELS)}, but is {self.log_level!r}")


# Keys themselves do not belong into a configuration file, only the file that they are in.
_KEYS: Final = frozenset(GatewayConfig.__struct_fields__) - {"api_keys"} | {"api_key_file"}


def load(flags: Mapping[str, Any], environ: Mapping[str, str], file: Path | None) -> GatewayConfig:
    """The configuration of flags (those that were given), environment and file together.

    The keys of the file are the flags' names with underscores. Raises ConfigError.
    """
    values = (_read_toml(file) if file else {}) | dict(flags)
    where = f"{file}: " if file else ""
    if unknown := values.keys() - _KEYS:
        raise ConfigError(f"{where}unknown key {min(unknown)!r}; known are {', '.join(sorted(_KEYS))}")
    if "model" not in values:
        raise ConfigError('no model: give --model FILE.gguf, or model = "FILE.gguf" in the configuration file')
    key_file = values.pop("api_key_file", None)
    if key_file is not None and not isinstance(key_file, str):
        raise ConfigError(f"{where}api_key_file must be a path in quotes")
    # The nearest source alone says what the keys are: those of a file do not add to those of a flag.
    if key_file and ("api_key_file" in flags or API_KEY_VARIABLE not in environ):
        values["api_keys"] = _read_keys(Path(key_file))
    elif API_KEY_VARIABLE in environ:
        values["api_keys"] = _keys(environ[API_KEY_VARIABLE], f"the environment variable {API_KEY_VARIABLE}")
    try:
        return msgspec.convert(values, GatewayConfig, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}{error}") from error


def _path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    raise ValueError("Expected a path in quotes")  # msgspec adds where


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} must lie between {low} and {high}, but is {value}")


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {file}: {error.strerror}") from error
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are both
        raise ConfigError(f"{file}: {error}") from error


def _read_keys(file: Path) -> frozenset[str]:
    try:
        return _keys(file.read_text("utf-8"), str(file))
    except OSError as error:
        raise ConfigError(f"cannot read the API key file {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the API key file {file} is not UTF-8 text") from error


def _keys(text: str, source: str) -> frozenset[str]:
    """One key per line; empty lines and those that begin with # do not count."""
    keys = frozenset(line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#"))
    if not keys:
        # A server that was meant to be closed must not start open.
        raise ConfigError(f"{source} holds no API key; leave it out to run without keys")
    return keys
