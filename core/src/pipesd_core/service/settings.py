"""Configuration of a program of ours: one TOML file, environment variables, and flags.

A flag beats the environment, the environment beats the file. API keys never stand in the file itself, only the name of
the file that they are in; the environment may hold either. What is unknown is an error and names the nearest known.
"""

from __future__ import annotations

import argparse
import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Final, TypeVar, get_args, get_origin
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from pipesd_core.errors import ConfigError
from pipesd_core.service import environment
from pipesd_core.service.standard_streams import write
from pipesd_core.text_encoding import read_text

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
KEEP_ALIVE_S: Final = 75
"""Default of `keep_alive`: longer than clients keep a connection for their next request, so that none meets its end."""
FAMILIES: Final = ("PIPESD_GATEWAY_", "PIPESD_AGENT_", "PIPESD_VLLM_", "PIPESD_MAX_SESSIONS_PER_KEY")
"""Prefixes of all our programs' variables: a program ignores those of the others."""

HELP: Final = """\
Each flag can also be set by an environment variable, {prefix} and its name ({prefix}PORT), and by a key of the \
configuration file, with _ for -. A flag overrides its variable, the variable overrides the file."""


def help_format(prog: str) -> argparse.HelpFormatter:
    """Formatter of `--help`: one line for each flag where 80 columns suffice."""
    return argparse.HelpFormatter(prog, max_help_position=29)


def installed_version(program: str) -> str:
    """The output of `--version`: the program, which is also its distribution's name, and the version installed."""
    from importlib.metadata import version  # imported here: no other start needs it

    return f"{program} {version(program)}"


class ShowVersion(argparse.Action):
    """The flag `--version` of a parser: print it and end with exit code 0."""

    def __init__(self, option_strings: Sequence[str], dest: str, **settings: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **settings)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        write(installed_version(parser.prog))
        parser.exit()


S = TypeVar("S", bound=Struct)


class TableKind(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base of the structs that a table of the file may be one of: its `kind` says which, and is each one's tag."""

    @property
    def kind(self) -> str:
        """Its name in the file."""
        return tag_of(type(self))


def tag_of(kind: type[Struct]) -> str:
    """The name in the file of a kind of table."""
    return str(kind.__struct_config__.tag)


class KeySource(Struct, frozen=True):
    """Sources of API keys: the struct's field, the field (and setting) that names a file, the variable."""

    field: str
    file_setting: str
    variable: str


class Program(Struct, frozen=True):
    """A program's sources of settings.

    prefix: of its environment variables, one for every setting that is no table, and CONFIG for the file.
    """

    prefix: str
    keys: tuple[KeySource, ...]


def load(kind: type[S], program: Program, flags: Mapping[str, Any], environ: Mapping[str, str], file: Path | None) -> S:
    """The configuration of flags (those that were given), environment and file together.

    The keys of the file are the flags' names with underscores. Raises ConfigError.
    """
    environment.check(environ)
    if file is None and (named := environ.get(f"{program.prefix}CONFIG")):
        file = Path(named)
    where = f"{file}: " if file else ""
    settings = {f.name: f.type for f in msgspec.structs.fields(kind)}
    for source in program.keys:
        del settings[source.field]
    of_file = _read_toml(file) if file else {}
    _fill_tags(settings, of_file, where)
    _check_known(settings, of_file, where)
    of_environment = _of_environment(settings, program, environ)
    values: dict[str, Any] = {**of_file, **of_environment, **flags}
    for source in program.keys:
        _add_keys(values, source, flags, environ, of_environment, where)
    try:
        return msgspec.convert(values, kind, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}{error}") from error


def within(name: str, value: float, low: float, high: float) -> None:
    """Raise ConfigError unless low <= value <= high."""
    if not low <= value <= high:
        raise ConfigError(f"{name} must lie between {low} and {high}, but is {value}")


def check_log_level(value: str) -> None:
    """Raise ConfigError for an unknown level."""
    if value not in LOG_LEVELS:
        raise ConfigError(f"log_level must be one of {', '.join(LOG_LEVELS)}, but is {value!r}")


def check_origins(values: tuple[str, ...]) -> None:
    """Raise ConfigError for what is no origin of web pages as browsers send it."""
    for value in values:
        parts = urlsplit(value)
        plain = f"{parts.scheme}://{parts.netloc}" == value == value.lower() and bool(parts.netloc)
        if value != "*" and not plain:
            raise ConfigError(f"cors_origin must be such as https://chat.example:8443, or *, but one is {value!r}")


def read_keys(file: Path) -> frozenset[str]:
    """The API keys in a file, at least one. Raises ConfigError, which shows none."""
    return parse_keys(read_text(file, "API key file"), str(file))


def parse_keys(text: str, source: str) -> frozenset[str]:
    """Parse keys, one a line; empty lines and those that begin with # do not count. Raises ConfigError."""
    keys: set[str] = set()
    for number, line in enumerate(text.split("\n"), start=1):
        key = line.strip(" \t\r")
        if not key or key.startswith("#"):
            continue
        # An HTTP header brings no other one, so it would be refused for ever; it may not even look odd in an editor.
        if (odd := next((char for char in key if not " " <= char <= "~"), None)) is not None:
            raise ConfigError(
                f"{source}, line {number}: a key must be printable ASCII, but this one has U+{ord(odd):04X} in it"
            )
        keys.add(key)
    if not keys:
        # A server that was meant to be closed must not start open.
        raise ConfigError(f"{source} holds no API key; leave it out to run without keys")
    return frozenset(keys)


def variables(kind: type[Struct], program: Program) -> dict[str, str]:
    """The environment variables of a program, each with its setting."""
    settings = {f.name: f.type for f in msgspec.structs.fields(kind)}
    own = {source.field for source in program.keys}
    return {name: setting for name, setting in _variables(settings, program).items() if setting not in own}


def _variables(settings: Mapping[str, Any], program: Program) -> dict[str, str]:
    flat = (name for name, kind in settings.items() if not _is_table(kind))
    return {f"{program.prefix}{name.upper()}": name for name in flat}


def _of_environment(settings: Mapping[str, Any], program: Program, environ: Mapping[str, str]) -> dict[str, Any]:
    known = _variables(settings, program)
    names = {*known, f"{program.prefix}CONFIG", *(source.variable for source in program.keys)}
    others = tuple(family for family in FAMILIES if family != program.prefix)
    for name in sorted(environ):
        if name.startswith("PIPESD_") and name not in names and not name.startswith(others):
            raise ConfigError(f"unknown environment variable {name}; the nearest known one is {_nearest(name, names)}")
    values = {}
    for name in known.keys() & environ.keys():
        setting, text = known[name], environ[name]
        kinds = (settings[setting], *get_args(settings[setting]))
        listed = any(get_origin(kind) is tuple for kind in kinds)
        try:
            values[setting] = msgspec.convert(
                text.replace(",", " ").split() if listed else text, settings[setting], strict=False, dec_hook=_path
            )
        except msgspec.ValidationError as error:
            raise ConfigError(f"the environment variable {name}: {error}, but is {text[:64]!r}") from error
    return values


def _add_keys(
    values: dict[str, Any],
    source: KeySource,
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    of_environment: Mapping[str, Any],
    where: str,
) -> None:
    """Take the keys from the nearest source alone: those of a file do not add to those of a flag."""
    if source.variable in environ and source.file_setting in of_environment:
        raise ConfigError(f"{source.variable} and the variable for {source.file_setting} are both set; leave out one")
    if source.variable in environ and source.file_setting not in flags:
        values[source.file_setting] = None
        values[source.field] = parse_keys(environ[source.variable], f"the environment variable {source.variable}")
        return
    file = values.get(source.file_setting)
    if file is None:
        return
    if not isinstance(file, str | Path):
        raise ConfigError(f"{where}{source.file_setting} must be a path in quotes")
    values[source.field] = read_keys(Path(file))


def _check_known(settings: Mapping[str, Any], given: Mapping[str, Any], where: str, table: str = "") -> None:
    for name, value in given.items():
        if name not in settings:
            nearest = _nearest(name, settings)
            raise ConfigError(f"{where}unknown key {table + name!r}; the nearest known one is {table + nearest!r}")
        if (kind := _table(settings[name], value)) is not None and isinstance(value, dict):
            known = {f.name: f.type for f in msgspec.structs.fields(kind)}
            tag = {} if kind.__struct_config__.tag_field is None else {kind.__struct_config__.tag_field: str}
            _check_known(known | tag, value, where, f"{table}{name}.")


def _fill_tags(settings: Mapping[str, Any], given: dict[str, Any], where: str) -> None:
    """Name the first kind of a table that has several where it names none. Raises ConfigError for an unknown one."""
    for name, value in given.items():
        kinds = _kinds(settings.get(name))
        if not kinds or not isinstance(value, dict):
            continue
        field = kinds[0].__struct_config__.tag_field
        names = [tag_of(kind) for kind in kinds]
        if value.setdefault(field, names[0]) not in names:
            raise ConfigError(f"{where}{name}.{field} must be one of {', '.join(names)}, but is {value[field]!r}")


def _table(kind: Any, value: Any) -> type[Struct] | None:
    """What a table of the file is read as; None: the setting is no table."""
    for one in _kinds(kind):
        if isinstance(value, dict) and value.get(one.__struct_config__.tag_field) == one.__struct_config__.tag:
            return one
    return kind if isinstance(kind, type) and issubclass(kind, Struct) else None


def _kinds(kind: Any) -> tuple[type[Struct], ...]:
    """The structs that a table may be one of, told apart by their tag; none: it has one kind, or is no table."""
    if not isinstance(kind, UnionType):
        return ()
    structs = tuple(one for one in get_args(kind) if isinstance(one, type) and issubclass(one, Struct))
    return structs if len(structs) == len(get_args(kind)) else ()


def _is_table(kind: Any) -> bool:
    return (isinstance(kind, type) and issubclass(kind, Struct)) or bool(_kinds(kind))


def _nearest(name: str, known: Iterable[str]) -> str:
    return difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)[0]


def _path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, Path):
        return value
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    raise ValueError("Expected a path" if value == "" else "Expected a path in quotes")  # msgspec adds where


def _read_toml(file: Path) -> dict[str, Any]:
    text = read_text(file, "configuration file")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError; arrays in arrays in arrays
        raise ConfigError(f"{file}: {error}") from error
