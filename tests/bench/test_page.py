"""Parts of a page that a program makes go between their markers."""

from __future__ import annotations

import pytest

from bench.page import between


def test_between() -> None:
    page = "a\n<!-- begin: x -->\nold\n<!-- end: x -->\nz\n"
    assert between(page, "x", "\nnew\n\n") == "a\n<!-- begin: x -->\nnew\n<!-- end: x -->\nz\n"
    with pytest.raises(ValueError, match="begin: y"):
        between(page, "y", "")
