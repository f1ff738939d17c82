from __future__ import annotations

import pytest

from pipesd_gateway.exceptions import ConfigError
from pipesd_vllm.limits import MOST, VARIABLE, count, max_sessions_per_key


def test_the_environment_says_it() -> None:
    assert max_sessions_per_key({}) == 256
    assert max_sessions_per_key({VARIABLE: "3"}) == 3
    assert max_sessions_per_key({VARIABLE: str(MOST)}) == MOST


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "x", "²", "١", str(MOST + 1), "9" * 5000])
def test_what_is_no_limit(text: str) -> None:
    with pytest.raises(ConfigError, match=f"{VARIABLE} must be a number from 1 to {MOST}, but is"):
        max_sessions_per_key({VARIABLE: text})
    with pytest.raises(ConfigError, match="--flag must be a number from 1 to 8"):
        count("--flag", text, 8)
