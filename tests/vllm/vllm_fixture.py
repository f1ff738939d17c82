"""A pytest plugin: the fixture `server`. (Not a conftest.py: mypy takes tests/ for one flat set of modules.)"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from vllm_server import VllmServer


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """One server for all tests that need no other."""
    with VllmServer(tmp_path_factory.mktemp("vllm")) as running:
        yield running
