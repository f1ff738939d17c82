from __future__ import annotations

import pytest

from pipesd_core.errors import ConfigError
from pipesd_vllm.limits import GRACE, SESSIONS, Limit, count, lora_tokens


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


def test_tokens_of_a_step_with_adapters() -> None:
    """vLLM's defaults: a CPU's, a small GPU's, an H100's. Only the first would do with 15 drafts, none with 16."""
    assert lora_tokens(128, 15, None, 2048) == 2048
    assert lora_tokens(128, 16, None, 2048) == 2176
    assert lora_tokens(256, 15, None, 2048) == 4096
    assert lora_tokens(1024, 15, None, 8192) == 16384
    assert lora_tokens(8, 15, None, 2048) == 2048
    assert lora_tokens(8, 15, 128, 128) == 128


def test_tokens_that_are_too_few_for_adapters() -> None:
    with pytest.raises(ConfigError, match=r"at least 128 with --enable-lora, .*8 and --max-drafts 15 .* but is 127"):
        lora_tokens(8, 15, 127, 127)
