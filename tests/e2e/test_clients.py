"""The scripts of examples/clients, as a person would copy them, against a real agent in front of a real gateway.

Their default ways: calls in the clients' own modes, structured output, streams. What the toy target says means nothing;
that a forced call has arguments that the client takes is what a script's last line shows.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from harness import agent_process, gateway
from repository import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.full, pytest.mark.timeout(300)]

NEWEST: Final = ROOT / ".venv-clients" / "bin"
OPENAI_2: Final = ROOT / ".venv-clients-openai2" / "bin"
SCRIPTS: Final = {
    "openai_python.py": (NEWEST, ("chat", "stream", "parsed", "called", "response", "streamed response", "async")),
    "langchain_agent.py": (NEWEST, ("chat", "stream", "bound, required", "structured", "agent")),
    "pydantic_ai_output.py": (NEWEST, ("text", "output_type")),
    "openai_agents.py": (NEWEST, ("tool", "typed, streamed")),
    "litellm_sdk.py": (NEWEST, ("chat", "stream", "called")),
    "anthropic_python.py": (NEWEST, ("message", "stream", "called")),
    "instructor_tools.py": (OPENAI_2, ("person",)),
    "llama_index_chat.py": (OPENAI_2, ("chat", "stream", "structured")),
    "llm_cli.sh": (NEWEST, ()),
    "curl.sh": (NEWEST, ()),
}
"""By script: the programs that it finds, and how the lines begin that it prints, in their order."""
FOLDER: Final = ROOT / "examples" / "clients"
NODE_SCRIPTS: Final = {
    "openai_node.mjs": ("chat", "stream", "parsed", "called", "response"),
    "ai_sdk.mjs": ("text", "stream", "object", "tool"),
}
NODE_FOLDER: Final = ROOT / ".build" / "clients-node"
"""Where `make clients-node` has put what they import."""


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An agent; its target's template teaches a format of calls."""
    log_dir = tmp_path_factory.mktemp("clients")
    template = str(ROOT / "configs" / "chat_templates" / "chatml_hermes.jinja")
    with (
        gateway(log_dir, "--chat-template", template) as cloud,
        agent_process(log_dir, cloud.url) as agent,
    ):
        yield agent.url


def run(command: list[str], base_url: str, folder: Path, path: Path, labels: tuple[str, ...]) -> None:
    """Run a script; it has to end well, and to print lines that begin with the labels, in their order."""
    environ = {
        "OPENAI_BASE_URL": base_url,
        "PATH": f"{path}:{os.environ['PATH']}",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # or it asks the network for prices
    }
    ran = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        stdin=subprocess.DEVNULL,
        cwd=folder,
        env=os.environ | environ,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.strip()
    at = 0
    for label in labels:
        found = ran.stdout.find(f"{label}:", at)
        assert found >= 0, f"{label} is missing: {ran.stdout[-2000:]}"
        at = found + 1


@pytest.mark.clients
def test_every_script_is_run() -> None:
    assert {path.name for path in FOLDER.iterdir() if path.suffix in (".py", ".sh")} == SCRIPTS.keys()
    assert {path.name for path in (FOLDER / "node").iterdir() if path.suffix == ".mjs"} == NODE_SCRIPTS.keys()


@pytest.mark.clients
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_client_gets_its_answers(base_url: str, script: str, tmp_path: Path) -> None:
    programs, labels = SCRIPTS[script]
    python = programs / "python"
    assert python.exists(), f"there is no {programs.parent.name}: run `make clients-env` first"
    command = [str(python) if script.endswith(".py") else "sh", str(FOLDER / script)]
    run(command, base_url, tmp_path, programs, labels)


@pytest.mark.parametrize("script", NODE_SCRIPTS)
def test_a_client_of_node_gets_its_answers(base_url: str, script: str) -> None:
    assert (NODE_FOLDER / "node_modules").exists(), "run `make clients-node` first"
    shutil.copy(FOLDER / "node" / script, NODE_FOLDER)  # node looks for modules beside a script
    run(["node", script], base_url, NODE_FOLDER, NODE_FOLDER, NODE_SCRIPTS[script])
