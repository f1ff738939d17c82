"""The command line as far as it needs no model; the rest is in tests/e2e."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pipesd_agent.cli import main
from pipesd_agent.config import GATEWAY_KEY


@pytest.fixture(autouse=True)
def no_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(GATEWAY_KEY.variable, raising=False)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gateway", "localhost:8100"], "gateway must be an address such as http://127.0.0.1:8100"),
        (["--gateway", "http://localhost:99999"], "gateway must be an address"),
        (["--port", "-1"], "port must lie between 0 and 65535, but is -1"),
        (["--capacity", "0"], "capacity must lie between 1 and 64, but is 0"),
        (["--context", "1"], "context must lie between 64"),
        (["--gpu-layers", "-2"], "gpu_layers must lie between -1 and 10000, but is -2"),
        (["--gateway-api-key-file", "/nowhere/key"], "cannot read the API key file /nowhere/key"),
        (["--config", "/nowhere/a.toml"], "cannot read the configuration file /nowhere/a.toml"),
    ],
)
def test_flags_that_are_wrong_are_one_line_and_code_2(
    capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert main(["start", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pipesd-agent: ")
    assert message in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("draftmodel = 'x'", "unknown key 'draftmodel'; the nearest known one is 'draft_model'"),
        (
            "[trigger]\nkind = 'fixed'\nlenght = 8",
            "unknown key 'trigger.lenght'; the nearest known one is 'trigger.length'",
        ),
        ("[session]\nwindow = 0", "window must lie between 1 and 1024, but is 0"),
        ("gateway_api_keys = ['x']", "unknown key 'gateway_api_keys'"),
        ("port = ", "Invalid value"),
    ],
)
def test_a_file_that_is_wrong_is_one_line_and_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "a.toml").write_text(text)
    assert main(["start", "--config", str(tmp_path / "a.toml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    "flags", [["--prot", "1"], ["--port", "x"], ["--mode", "x"], ["--fallback", "x"], ["--log-level", "loud"]]
)
def test_flags_that_argparse_refuses_are_code_2(capsys: pytest.CaptureFixture[str], flags: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["start", *flags])
    assert stop.value.code == 2
    assert flags[0] in capsys.readouterr().err.splitlines()[-1]


def test_no_command_is_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "command" in capsys.readouterr().err


def test_a_port_in_use_is_one_line_and_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["start", "--port", str(taken.getsockname()[1])]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "in use; choose another --host or --port" in line


def test_a_ca_file_that_cannot_be_used_is_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["start", "--port", "0", "--gateway", "https://h", "--ca-file", "/nowhere/ca.pem"]) == 2
    assert "cannot use ca_file /nowhere/ca.pem" in capsys.readouterr().err.splitlines()[-1]
