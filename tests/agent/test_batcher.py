"""When drafts leave the device."""

from __future__ import annotations

import pytest

from pipesd_agent.batcher import make_batcher
from pipesd_gateway.exceptions import ConfigError


@pytest.mark.parametrize(("name", "due"), [("immediate", True), ("single", False)])
def test_due(name: str, due: bool) -> None:
    batcher = make_batcher(name)
    assert [batcher.due(n) for n in (1, 2, 50)] == [due] * 3
    batcher.reset()
    assert batcher.due(1) is due


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match=r"immediate, single, but is 'dp'"):
        make_batcher("dp")
