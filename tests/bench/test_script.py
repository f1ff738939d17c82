"""Reading a trace as a run does."""

from __future__ import annotations

import pytest
from made import scripted

from bench.proving.trace import DEPTH


def test_a_right_path_goes_on_for_ever() -> None:
    script = scripted("." * 60)
    tokens = [script.draft(n, n) for n in range(60)]
    assert [token.token for token in tokens if token] == list(range(100, 160))
    assert [token.position for token in tokens if token] == list(range(10, 70))


def test_astray_it_follows_the_row_of_its_first_wrong_token() -> None:
    script = scripted("..x.....", {2: 0.25, 3: 0.5})
    first, second = script.draft(2, 2), script.draft(2, 3)
    assert first is not None
    assert second is not None
    assert (first.token, first.position) == (1, 12)
    assert first.confidence == pytest.approx(0.25)
    assert (second.token, second.position) == (1, 13)
    assert not script.right[2]
    assert script.right[3]


def test_too_far_astray_there_is_nothing() -> None:
    script = scripted("x" + "." * 60)
    assert script.draft(0, DEPTH - 1) is not None
    assert script.draft(0, DEPTH) is None
