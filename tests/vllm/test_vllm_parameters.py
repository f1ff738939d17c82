"""What vLLM serves is known by name: an agent with `--unknown-parameters ignore` must not leave any of it out."""

from __future__ import annotations

import ast

import pytest
from repository import ROOT

from pipesd_core.openai_parameters import is_known

pytestmark = pytest.mark.vllm

CLASSES = {"chat_completion": "ChatCompletionRequest", "completion": "CompletionRequest"}


@pytest.mark.parametrize("folder", CLASSES)
def test_every_parameter_of_vllm_is_known(folder: str) -> None:
    """Read, not imported: that would take half a minute."""
    (source,) = ROOT.glob(f".venv-vllm/lib/python3*/site-packages/vllm/entrypoints/openai/{folder}/protocol.py")
    (request,) = (
        node
        for node in ast.parse(source.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == CLASSES[folder]
    )
    fields = {
        node.target.id
        for node in request.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and not node.target.id.startswith("_")
    }
    assert {"model", "min_tokens", "vllm_xargs"} <= fields
    assert [name for name in sorted(fields) if not is_known(name)] == []
