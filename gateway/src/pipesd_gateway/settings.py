"""How a program of ours gets its configuration: one TOML file, an environment variable for the keys, and flags.

A flag beats the environment, the environment beats the file. API keys never stand in the file itself, only the name of
the file that they are in.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from pipesd_gateway.exceptions import ConfigError

LOG_LEVELS: Final = ("debug", "info", "warning", "error")

S = TypeVar("S", bound=Struct)


class KeySource(Struct, frozen=True):
    """Where API keys come from: the struct's field, the setting that names a file, the environment variable."""

    field: str
    file_setting: str
    variable: str


def load(kind: type[S], keys: KeySource, flags: Mapping[str, Any], environ: Mapping[str, str], file: Path | None) -> S:
    """The configuration of flags (those that were given), environment and file together.

    The keys of the file are the flags' names with underscores. Raises ConfigError.
    """
    values: dict[str, Any] = {**(_read_toml(file) if file else {}), **flags}
    where = f"{file}: " if file else ""
    known = frozenset(kind.__struct_fields__) - {keys.field} | {keys.file_setting}
    if unknown := values.keys() - known:
        raise ConfigError(f"{where}unknown key {min(unknown)!r}; known are {', '.join(sorted(known))}")
    key_file = values.pop(keys.file_setting, None)
    if key_file is not None and not isinstance(key_file, str):
        raise ConfigError(f"{where}{keys.file_setting} must be a path in quotes")
    # The nearest source alone says what the keys are: those of a file do not add to those of a flag.
    if key_file and (keys.file_setting in flags or keys.variable not in environ):
        values[keys.field] = _read_keys(Path(key_file))
    elif keys.variable in environ:
        values[keys.field] = _keys(environ[keys.variable], f"the environment variable {keys.variable}")
    try:
        return msgspec.convert(values, kind, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}{error}") from error


def within(name: str, value: float, low: float, high: float) -> None:
    """Raises ConfigError unless low <= value <= high."""
    if not low <= value <= high:
        raise ConfigError(f"{name} must lie between {low} and {high}, but is {value}")


def check_log_level(value: str) -> None:
    """Raises ConfigError for an unknown level."""
    if value not in LOG_LEVELS:
        raise ConfigError(f"log_level must be one of {', '.join(LOG_LEVELS)}, but is {value!r}")


def _path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    raise ValueError("Expected a path in quotes")  # msgspec adds where


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
