"""Which test modules are collected."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

E2E_MODULE = re.compile(r"^pytestmark = .*\bpytest\.mark\.e2e\b", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m "not e2e"` (`make check`) leave modules alone that are e2e as a whole: the compiled llama.cpp, which
    they import, need not be there."""
    if "not e2e" not in config.getoption("markexpr") or collection_path.suffix != ".py":
        return None
    return True if E2E_MODULE.search(collection_path.read_text(encoding="utf-8")) else None
