"""The agent is light: what a real start of it loads, and when (a drafter by prompt lookup)."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest

MOST_BEFORE = 400
"""Modules when a model begins to load."""
NEVER = ("scipy", "sklearn", "skopt", "joblib", "threadpoolctl", "torch", "fastapi", "pydantic", "llama_cpp")
NOT_OURS = ("pipesd_gateway", "pipesd_vllm", "bench")
AFTER = ("numpy", "starlette", "uvicorn", "httpx", "anyio")
START = """
import atexit, sys
from pipesd_agent import build, cli

resources = build._resources

def counting(config):
    print("BEFORE", sorted(sys.modules), flush=True)
    return resources(config)

build._resources = counting
atexit.register(lambda: print("SERVED", sorted(sys.modules), flush=True))
sys.exit(cli.main(["start", "--port", "0", "--gateway", "http://127.0.0.1:9", "--log-level", "error"]))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Names of modules: when the drafter is about to be made, and at the end of an agent that has served."""
    folder = tmp_path_factory.mktemp("light")
    lines = []
    with (
        (folder / "errors").open("wb") as errors,
        subprocess.Popen([sys.executable, "-c", START], stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        limit = threading.Timer(60, process.kill)
        limit.start()
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if line.startswith("listening on "):
                process.send_signal(signal.SIGTERM)
        status = process.wait(30)
        limit.cancel()
    assert status == 0, (folder / "errors").read_text()
    said = dict(line.split(" ", 1) for line in lines if line.startswith(("BEFORE ", "SERVED ")))
    return {when: ast.literal_eval(names) for when, names in said.items()}


def packages(names: list[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_few_modules_are_there_when_a_model_begins_to_load(loaded: dict[str, list[str]]) -> None:
    assert len(loaded["BEFORE"]) <= MOST_BEFORE
    assert not packages(loaded["BEFORE"]) & {*NEVER, *NOT_OURS, *AFTER}


def test_nothing_of_the_tuner_or_of_other_programs_is_ever_there(loaded: dict[str, list[str]]) -> None:
    assert not packages(loaded["SERVED"]) & {*NEVER, *NOT_OURS}
    assert packages(loaded["SERVED"]) >= set(AFTER), "it has served"


def test_the_distribution_asks_for_nothing_heavy() -> None:
    root = Path(__file__).parents[2]
    agent, core = (
        tomllib.loads((root / of / "pyproject.toml").read_text())["project"] for of in ("edge_agent", "core")
    )
    asked = " ".join([*agent["dependencies"], *core["dependencies"], *core["optional-dependencies"]["serve"]])
    for name in ("scikit", "scipy", "gateway", "fastapi", "torch", "llama", "threadpoolctl"):
        assert name not in asked
    assert any("scikit-optimize" in one for one in agent["optional-dependencies"]["tuner"])
