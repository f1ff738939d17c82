"""The size of draft messages."""

from __future__ import annotations

import pytest

from pipesd_agent.telemetry.frames import Frames


def test_frames_tell_an_empty_one_from_its_tokens() -> None:
    frames = Frames()
    assert frames.token_bytes > 0
    for _ in range(50):
        frames.sent(1, 20)
    assert frames.empty_bytes + frames.token_bytes == pytest.approx(20)
    for tokens in (1, 3, 8) * 50:
        frames.sent(tokens, 17 + 5 * tokens)
    assert frames.token_bytes == pytest.approx(5, rel=0.05)
    assert frames.empty_bytes == pytest.approx(17, abs=1)
