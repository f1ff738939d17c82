"""Only `pipesd_vllm.compat` touches vLLM."""

from __future__ import annotations

import ast
from pathlib import Path

import pipesd_vllm

PACKAGE = Path(pipesd_vllm.__file__).parent


def imported(file: Path) -> set[str]:
    """Top-level names of what a module imports, also inside its functions."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_nothing_else_imports_vllm() -> None:
    importing = {file.relative_to(PACKAGE) for file in PACKAGE.rglob("*.py") if "vllm" in imported(file)}
    assert importing
    assert {file.parts[0] for file in importing} == {"compat"}
