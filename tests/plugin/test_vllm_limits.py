from __future__ import annotations

import pytest

from pipesd_core.errors import ConfigError
from pipesd_vllm.limits import GRACE, SESSIONS, Limit, count


def test_the_environment_says_it() -> None:
    assert SESSIONS.of({}) == 256
    assert SESSIONS.of({SESSIONS.variable: "3"}) == 3
    assert SESSIONS.of({SESSIONS.variable: str(SESSIONS.most)}) == SESSIONS.most
    assert GRACE.of({}) == 30
    assert GRACE.of({GRACE.variable: "0"}) == 0


@pytest.mark.parametrize("limit", [SESSIONS, GRACE])
@pytest.mark.parametrize("text", ["", "-1", "1.5", "x", "²", "١", str(2**20 + 1), "9" * 5000])
def test_what_is_no_limit(limit: Limit, text: str) -> None:
    says = f"must be a number from {limit.least} to {limit.most}, but is"
    with pytest.raises(ConfigError, match=f"{limit.variable} {says}"):
        limit.of({limit.variable: text})
    with pytest.raises(ConfigError, match="--flag must be a number from 0 to 8"):
        count("--flag", text, 0, 8)
