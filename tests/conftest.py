"""Which test modules are collected, what holds for all tests, and where agents keep things: not with the user's."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# No deadline for an example: it would say how busy the machine is.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

E2E_MODULE = re.compile(r"^pytestmark = .*\bpytest\.mark\.e2e\b", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m "not e2e"` (`make check`) leave modules alone that are e2e as a whole: the compiled llama.cpp, which
    they import, need not be there. tests/vllm needs an environment of its own, and is left alone unless asked for."""
    alone = collection_path.is_relative_to(config.rootpath / "tests" / "vllm")
    if alone and "vllm" not in config.getoption("markexpr"):
        return True
    if "not e2e" not in config.getoption("markexpr") or collection_path.suffix != ".py":
        return None
    return True if E2E_MODULE.search(collection_path.read_text(encoding="utf-8")) else None


def pytest_unconfigure() -> None:
    """llama-cpp-python opens /dev/null twice when it is imported and never closes it, which a run would end by
    complaining of."""
    if (utils := sys.modules.get("llama_cpp._utils")) is not None:
        utils.outnull_file.close()
        utils.errnull_file.close()


@pytest.fixture(scope="session", autouse=True)
def _state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Of this process and those that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield
