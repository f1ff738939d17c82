from __future__ import annotations

import json
import os

import pytest

from pipesd_core.errors import ConfigError
from pipesd_vllm import cli
from pipesd_vllm.cli import main, plugins, server_arguments
from pipesd_vllm.limits import GRACE, SESSIONS
from pipesd_vllm.park_keys import SECRET_VARIABLE
from pipesd_vllm.runner_choice import V2, VARIABLE


def speculation(arguments: list[str]) -> dict[str, object]:
    printed: dict[str, object] = json.loads(arguments[arguments.index("--speculative-config") + 1])
    return printed


def test_flags_pass_through() -> None:
    arguments = server_arguments("some/model", ["--port", "8000", "--api-key=k"])
    assert arguments[:5] == ["--model", "some/model", "--port", "8000", "--api-key=k"]
    assert "--scheduler-cls" in arguments
    assert speculation(arguments)["num_speculative_tokens"] == 15  # with the row of the last decided token: 16


@pytest.mark.parametrize("flags", [["--max-drafts", "8"], ["--max-drafts=8"], ["--max_drafts", "8"]])
def test_most_drafts_of_a_step(flags: list[str]) -> None:
    arguments = server_arguments("m", flags)
    assert speculation(arguments)["num_speculative_tokens"] == 8
    assert not any("max" in argument for argument in arguments)


def test_graphs_are_piecewise() -> None:
    """vLLM's V1 runner would pad an ordinary stream's one row to a session's 16 with full ones."""
    arguments = server_arguments("m", ["--port", "8000"])
    assert json.loads(arguments[arguments.index("--compilation-config") + 1]) == {"cudagraph_mode": "PIECEWISE"}


@pytest.mark.parametrize(
    "flags",
    [
        ["--compilation-config", '{"cudagraph_mode": "FULL_AND_PIECEWISE"}'],
        ["--compilation_config={}"],
        ["--compilation-config.cudagraph_mode=NONE"],
        ["-cc.mode", "3"],
        ["-cc={}"],
    ],
)
def test_a_compilation_of_the_users_own_holds(flags: list[str]) -> None:
    arguments = server_arguments("m", flags)
    assert arguments[2 : 2 + len(flags)] == flags
    assert not any("PIECEWISE" in argument for argument in arguments if argument not in flags)


@pytest.mark.parametrize(
    "flags",
    [
        ["--max-drafts", "0"],
        ["--max-drafts", "129"],
        ["--max-drafts"],
        ["--scheduler-cls", "x"],
        ["--speculative_config={}"],
        ["--data-parallel-size", "2"],
        ["-dp=2"],
        ["--pipeline-parallel-size", "2"],
        ["--api-server-count=4"],
        ["--stream-interval", "8"],
    ],
)
def test_flags_that_cannot_be(flags: list[str]) -> None:
    with pytest.raises(ConfigError):
        server_arguments("m", flags)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What vLLM's server would have been started with."""
    commands: list[list[str]] = []
    monkeypatch.setattr(cli, "_check", lambda *_: None)
    monkeypatch.setattr(cli, "_v2_is_missing", lambda: "it has no Triton")
    monkeypatch.setattr(cli, "_serve", commands.append)
    monkeypatch.setenv(VARIABLE, "1")  # for the clean-up
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv(SESSIONS.variable, "7")
    monkeypatch.setenv(GRACE.variable, "9")
    return commands


def test_graphs_for_one_token_and_for_one_and_its_drafts_on_v2() -> None:
    arguments = server_arguments("m", ["--max-drafts", "7"], V2)
    assert speculation(arguments) == {
        "method": "ngram_gpu",
        "model": "pipesd_vllm.compat.speculator.RemoteDrafts",
        "prompt_lookup_min": 1,
        "prompt_lookup_max": 1,
        "num_speculative_tokens": 7,
        "num_speculative_tokens_per_batch_size": [[1, 1, 7], [2, 2**20, 0]],
    }
    assert "--compilation-config" not in arguments


def test_the_runner_travels_in_the_environment(started: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["serve", "m"]) == 0
    assert os.environ[VARIABLE] == "0"
    assert speculation(started[0])["method"] == "custom_class"
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(cli, "_v2_is_missing", lambda: None)
    assert main(["serve", "m", "--port", "1"]) == 0
    assert os.environ[VARIABLE] == "1"
    assert speculation(started[1])["method"] == "ngram_gpu"
    monkeypatch.delenv(VARIABLE)
    assert main(["serve", "m", "--runner=v1"]) == 0
    assert started[2] == started[0]  # vLLM does not know the flag


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["serve", "m", "--runner", "v2"], "cannot run here, because it has no Triton"),
        (["check", "--runner", "v2"], "cannot run here, because it has no Triton"),
        (["check", "--runner", "v3"], "must be auto, v1 or v2"),
        (["check", "--port", "1"], "check takes --runner and nothing else, but got '--port'"),
    ],
)
def test_a_runner_that_cannot_be(
    started: list[list[str]], capsys: pytest.CaptureFixture[str], flags: list[str], says: str
) -> None:
    assert main(flags) == 2
    assert says in capsys.readouterr().err
    assert not started


@pytest.mark.usefixtures("started")
def test_check_says_which_runner_it_will_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    assert capsys.readouterr().out.strip().endswith("model runner V1 (V2 cannot run here: it has no Triton)")


def test_limits_of_sessions_travel_in_the_environment(started: list[list[str]]) -> None:
    assert main(["serve", "m", "--port", "1"]) == 0
    assert os.environ[SESSIONS.variable] == "7"
    assert main(["serve", "m", "--port", "1", "--max-sessions-per-key", "5"]) == 0
    assert os.environ[SESSIONS.variable] == "5"
    assert main(["serve", "m", "--grace", "0", "--port", "1"]) == 0
    assert os.environ[GRACE.variable] == "0"
    assert started[0] == started[1] == started[2]  # vLLM does not know the flags


@pytest.mark.parametrize(("flags", "variable"), [(["--max-sessions-per-key=0"], "7"), ([], "many")])
def test_a_limit_of_sessions_that_cannot_be(
    started: list[list[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    variable: str,
) -> None:
    monkeypatch.setenv(SESSIONS.variable, variable)
    assert main(["serve", "m", *flags]) == 2
    assert "must be a number from 1 to 1048576" in capsys.readouterr().err
    assert not started


def test_one_replica_is_no_data_parallelism() -> None:
    assert "--data-parallel-size" in server_arguments("m", ["--data-parallel-size", "1"])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "pipesd_engine,pipesd_endpoint"),
        ({"VLLM_PLUGINS": "mine"}, "mine,pipesd_engine,pipesd_endpoint"),
        ({"VLLM_PLUGINS": "pipesd_endpoint,pipesd_engine"}, "pipesd_endpoint,pipesd_engine"),
    ],
)
def test_plugins(before: dict[str, str], after: str) -> None:
    assert plugins(before) == after


@pytest.mark.parametrize("arguments", [["serve"], ["serve", "--port"], ["boil"], ["serve", "m", "-dp", "2"]])
def test_wrong_commands_end_with_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("pipesd-vllm: ")
    assert error.count("\n") == 1


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "pipesd-vllm serve MODEL" in capsys.readouterr().out


@pytest.mark.parametrize(("given", "kept"), [(None, "75"), ("9", "9")])
def test_idle_connections_stay_open_as_at_our_own_gateway(
    monkeypatch: pytest.MonkeyPatch, given: str | None, kept: str
) -> None:
    monkeypatch.setattr("runpy.run_module", lambda *_, **__: None)
    monkeypatch.setattr("sys.argv", [])
    for name in ("VLLM_PLUGINS", SECRET_VARIABLE, cli.KEEP_ALIVE_VARIABLE):
        monkeypatch.setenv(name, given or "x")
    if given is None:
        monkeypatch.delenv(cli.KEEP_ALIVE_VARIABLE)
    cli._serve(["--model", "m"])
    assert os.environ[cli.KEEP_ALIVE_VARIABLE] == kept


def test_a_variable_that_a_library_could_not_read_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WEBSOCKETS_MAX_FRAGMENTS", "4k")
    assert main(["serve", "m"]) == 2
    assert "the environment variable WEBSOCKETS_MAX_FRAGMENTS" in capsys.readouterr().err
