"""Every flag of both programs is an environment variable and a key of the file too, and they mean the same."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from repository import ROOT

from pipesd_agent import cli as agent_cli
from pipesd_agent import config as agent_config
from pipesd_core.service.flags import integer, strict
from pipesd_core.service.settings import Program, variables
from pipesd_gateway import cli as gateway_cli
from pipesd_gateway import config as gateway_config

PROGRAMS: dict[str, tuple[str, ModuleType, ModuleType, type[msgspec.Struct]]] = {
    "gateway": ("serve", gateway_cli, gateway_config, gateway_config.GatewayConfig),
    "agent": ("start", agent_cli, agent_config, agent_config.AgentConfig),
}
GIVEN: dict[str, str] = {
    "model": "m.gguf", "draft_model": "d.gguf", "host": "::1", "port": "81", "name": "n", "n_seq": "3",
    "context": "300", "threads": "2", "max_queue": "5", "park_timeout": "2.5", "step_floor_ms": "7",
    "max_sessions_per_key": "9", "tls_cert": "c.pem", "tls_key": "k.pem", "cors_origin": "https://a.example",
    "drain_timeout": "4", "keep_alive": "9", "log_level": "warning", "log_format": "json", "gateway": "https://h",
    "mode": "cloud",
    "ca_file": "ca.pem", "trace": "t", "fallback": "edge", "capacity": "2", "gpu_layers": "-1", "grace": "7",
    "objective": "offload", "unknown_parameters": "ignore", "allowed_host": "a.example",
}  # fmt: skip
"""A value of each flag that is not its default; those of keys and of a template name a file, which the test makes."""


def flags_of(command: str, module: ModuleType) -> dict[str, argparse.Action]:
    (subparsers,) = (a for a in module._parser()._actions if isinstance(a, argparse._SubParsersAction))
    actions = subparsers.choices[command]._actions
    return {action.dest: action for action in actions if action.dest not in ("help", "config")}


@pytest.fixture
def given(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "keys").write_text("k")
    return GIVEN | {name: str(tmp_path / "keys") for name in ("api_key_file", "gateway_api_key_file", "chat_template")}


@pytest.mark.parametrize("name", PROGRAMS)
def test_flag_variable_and_key_of_the_file_are_one(name: str, given: dict[str, str], tmp_path: Path) -> None:
    command, module, config, kind = PROGRAMS[name]
    program: Program = config.PROGRAM
    load: Callable[..., Any] = config.load
    flags = flags_of(command, module)
    assert set(flags) <= set(variables(kind, program).values())
    values = {dest: given[dest] for dest in flags}
    argv = [part for dest, value in values.items() for part in (flags[dest].option_strings[0], value)]
    parsed = vars(module._parser().parse_args([command, *argv]))
    del parsed["command"]
    environ = {
        f"{program.prefix}{flags[dest].option_strings[0][2:].upper().replace('-', '_')}": values[dest] for dest in flags
    }
    assert environ.keys() <= variables(kind, program).keys()
    file = tmp_path / "c.toml"
    lines = []
    for dest, value in values.items():
        number = isinstance(parsed[dest], int | float)
        lines.append(
            f"{dest} = {value if number else [value] if dest in ('cors_origin', 'allowed_host') else repr(value)}\n"
        )
    file.write_text("".join(lines))
    by_flags, by_environment, by_file = load(parsed, {}, None), load({}, environ, None), load({}, {}, file)
    assert by_flags == by_environment == by_file
    assert load({}, {f"{program.prefix}CONFIG": str(file)}, None) == by_file
    default = {f.name: f.default for f in msgspec.structs.fields(kind)}
    assert [dest for dest in flags if getattr(by_flags, dest) == default[dest]] == []


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_tells_every_default_and_fits_a_screen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    command, module, config, kind = PROGRAMS[name]
    (subparsers,) = (a for a in module._parser()._actions if isinstance(a, argparse._SubParsersAction))
    lines = subparsers.choices[command].format_help().splitlines()
    assert len(lines) <= 42
    assert max(map(len, lines)) <= 80
    assert config.PROGRAM.prefix in " ".join(lines)
    default = {f.name: f.default for f in msgspec.structs.fields(kind)}
    for dest, action in flags_of(command, module).items():
        if isinstance(default[dest], int | float) or (isinstance(default[dest], str) and default[dest]):
            shown = f"{default[dest]:g}" if isinstance(default[dest], float) else str(default[dest])
            assert f"({shown})" in str(action.help), dest


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (
            "PIPESD_{}_PROT",
            "1",
            "unknown environment variable PIPESD_{0}_PROT; the nearest known one is PIPESD_{0}_PORT",
        ),
        ("PIPESD_{}_PORT", "70000", "port must lie between 0 and 65535, but is 70000"),
        ("PIPESD_{}_THREADS", "x", "the environment variable PIPESD_{0}_THREADS: Expected `int`"),
        ("PIPESD_{}_LOG_FORMAT", "xml", "the environment variable PIPESD_{0}_LOG_FORMAT: Invalid"),
        ("PIPESD_{}_CORS_ORIGIN", "a.example", "cors_origin must be such as https://"),
        ("PIPESD_{}_ALLOWED_HOST", "a.example:80", "allowed_host must be a name or an address without a port"),
        ("PIPESD_{}_CONFIG", "/nowhere/c.toml", "cannot read the configuration file /nowhere/c.toml"),
        ("PIPESD_API_KEY", "secret", "unknown environment variable PIPESD_API_KEY; the nearest known one is PIPESD_"),
    ],
)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_wrong_variable_is_one_line_and_code_2(
    name: str,
    variable: str,
    value: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command, module, *_ = PROGRAMS[name]
    monkeypatch.setenv(variable.format(name.upper()), value)
    model = ["--model", "m.gguf"] if name == "gateway" else []
    assert module.main([command, *model]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message.format(name.upper()) in line
    assert "secret" not in line


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_ready_configuration_names_every_setting(name: str) -> None:
    """As it is, or in a comment that shows how."""
    command, module, *_ = PROGRAMS[name]
    text = (ROOT / "configs" / f"{name}.toml").read_text("utf-8")
    for dest in flags_of(command, module):
        assert f"\n{dest} = " in text or f"\n# {dest} = " in text, dest


WRONG: dict[type | None, tuple[str, ...]] = {
    int: ("x", "", "1.0", "1_000", " 7", "7 ", "٣", "0x10", "9" * 19, "--7"),
    float: ("x", "", "nan", "inf", "-inf", "1e999", "1_0.5", "٣.٥", " 1", "1e", "."),
    Path: ("",),
    None: ("\udcff", "a\ud800"),
}
RIGHT: dict[type | None, dict[str, Any]] = {
    int: {"7": 7, "-7": -7, "+07": 7, "9" * 18: 10**18 - 1},
    float: {"7": 7.0, "-.5": -0.5, "1.": 1.0, "1e3": 1000.0},
    Path: {"a": Path("a"), "\udcff": Path("\udcff")},
    None: {"": "", "schön": "schön"},
}


def parsed(kind: type | None, value: str) -> Any:
    parser = strict(argparse.ArgumentParser(prog="prog"))
    parser.add_argument("--flag", **({} if kind is None else {"type": kind}))  # type: ignore[arg-type]
    return parser.parse_args([f"--flag={value}"]).flag


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in WRONG.items() for value in values])
def test_values_that_are_none(kind: type | None, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parsed(kind, value)
    assert stop.value.code == 2
    assert "argument --flag: must be " in capsys.readouterr().err.rstrip("\n").split("\n")[-1]


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in RIGHT.items() for value in values])
def test_values(kind: type | None, value: str) -> None:
    assert parsed(kind, value) == RIGHT[kind][value]


@pytest.mark.parametrize(("command", "module"), [row[:2] for row in PROGRAMS.values()] + [("chat", agent_cli)])
def test_every_command_reads_its_flags_so(command: str, module: ModuleType) -> None:
    (subparsers,) = (a for a in module._parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert subparsers.choices[command]._registries["type"][int] is integer
