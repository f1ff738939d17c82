"""The systemd units in configs/ say what the programs do."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import ModuleType

import msgspec
import pytest
from repository import ROOT

from pipesd_agent import cli as agent_cli
from pipesd_agent import config as agent_config
from pipesd_core.service import server
from pipesd_core.service.settings import Program, variables
from pipesd_gateway import cli as gateway_cli
from pipesd_gateway import config as gateway_config

CONFIGS = ROOT / "configs"
HARDENED = {
    "DynamicUser": "yes",
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "CapabilityBoundingSet": "",
    "SystemCallFilter": "@system-service",
    "Restart": "on-failure",
    "RestartPreventExitStatus": "2",
    "KillSignal": "SIGTERM",
}
UNITS: dict[str, tuple[ModuleType, type[msgspec.Struct], Program]] = {
    "pipesd-gateway": (gateway_cli, gateway_config.GatewayConfig, gateway_config.PROGRAM),
    "pipesd-agent": (agent_cli, agent_config.AgentConfig, agent_config.PROGRAM),
}


def text_of(name: str) -> str:
    return (CONFIGS / f"{name}.service").read_text("utf-8")


def settings_of(name: str) -> dict[str, str]:
    """Those that are in effect, each once."""
    pairs = re.findall(r"^(\w+)=(.*)$", text_of(name), re.MULTILINE)
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@pytest.mark.parametrize("name", UNITS)
def test_they_are_hardened_and_wait_for_the_drain(name: str) -> None:
    unit = settings_of(name)
    assert {key: unit[key] for key in HARDENED} == HARDENED
    drain = {f.name: f.default for f in msgspec.structs.fields(UNITS[name][1])}["drain_timeout"]
    assert int(unit["TimeoutStopSec"]) >= drain + server.GRACE_S + 5
    assert re.findall(r"^\[(\w+)\]$", text_of(name), re.MULTILINE) == ["Unit", "Service", "Install"]


@pytest.mark.parametrize("name", UNITS)
def test_what_they_start_is_a_command_of_ours(name: str) -> None:
    module, kind, program = UNITS[name]
    command = shlex.split(settings_of(name)["ExecStart"])
    assert Path(command[0]).name == name
    flags = vars(module._parser().parse_args(command[1:]))
    assert (CONFIGS / flags["config"].name).exists()
    named = set(re.findall(r"\bPIPESD_\w+", text_of(name)))
    assert named
    assert named <= set(variables(kind, program))
