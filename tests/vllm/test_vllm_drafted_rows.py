"""`min_p` and `logit_bias` on drafted rows, bit for bit as on any other, and custom logits processors are refused."""

from __future__ import annotations

import pytest
from test_vllm_draw import run_script

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]


def test_drafted_rows_are_processed_as_others_are() -> None:
    assert run_script("drafted_rows_check.py").endswith("drafted rows equal")
