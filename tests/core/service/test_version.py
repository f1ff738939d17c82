"""`--version` of all three programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version

import pytest

from pipesd_agent import cli as agent_cli
from pipesd_gateway import cli as gateway_cli
from pipesd_vllm import cli as vllm_cli

Main = Callable[[Sequence[str]], int]


@pytest.mark.parametrize(
    ("program", "main"),
    [("pipesd-agent", agent_cli.main), ("pipesd-gateway", gateway_cli.main), ("pipesd-vllm", vllm_cli.main)],
)
def test_the_version_is_that_of_the_distribution(program: str, main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = main(["--version"])
    except SystemExit as end:  # argparse's own way
        code = end.code
    assert code == 0
    assert capsys.readouterr().out == f"{program} {version(program)}\n"
