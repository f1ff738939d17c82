from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipesd_core.llamacpp.runtime.rows import MAX_ROWS, MAX_WANTED, padded


def llama_cpp_ubatches(rows: dict[int, int]) -> list[dict[int, int]]:
    """How llama.cpp cuts a batch (`split_equal(n_ubatch, sequential=True)`): rows by sequence id, ubatch by ubatch."""
    left = {seq: count for seq, count in sorted(rows.items()) if count}
    cut = []
    while left:
        run = [min(left)]
        while run[-1] + 1 in left:
            run.append(run[-1] + 1)
        take = min(left[seq] for seq in run)
        cut.append(dict.fromkeys(run, take))
        left = {seq: count - (take if seq in run else 0) for seq, count in left.items()}
        left = {seq: count for seq, count in left.items() if count}
    return cut


def test_the_model_of_llama_cpp_leaves_a_single_row_of_counts_3_and_2() -> None:
    assert llama_cpp_ubatches({0: 3, 1: 2}) == [{0: 2, 1: 2}, {0: 1}]
    assert llama_cpp_ubatches({0: 3, 2: 2}) == [{0: 3}, {2: 2}]


@given(st.dictionaries(st.integers(0, 7), st.integers(1, MAX_WANTED)))
def test_every_ubatch_has_2_to_63_rows_of_every_sequence(wanted: dict[int, int]) -> None:
    rows = dict(zip(wanted, padded(list(wanted.values())), strict=True))
    for ubatch in llama_cpp_ubatches(rows):
        assert all(2 <= count <= MAX_ROWS for count in ubatch.values())


@given(st.lists(st.integers(1, MAX_WANTED)))
def test_at_most_one_dummy_row_is_added(wanted: list[int]) -> None:
    assert all(now - asked in (0, 1) for now, asked in zip(padded(wanted), wanted, strict=True))


@pytest.mark.parametrize(
    ("wanted", "rows"),
    [([], []), ([1], [2]), ([2], [2]), ([3, 2], [4, 2]), ([1, 2, 3, 4], [2, 2, 4, 4]), ([5, 9], [5, 9]), ([62], [62])],
)
def test_examples(wanted: list[int], rows: list[int]) -> None:
    assert padded(wanted) == rows


@pytest.mark.parametrize("count", [0, -1, MAX_WANTED + 1])
def test_refuses_counts_that_cannot_be_padded(count: int) -> None:
    with pytest.raises(ValueError, match=f"1 to {MAX_WANTED} rows in one decode, not {count}"):
        padded([2, count])
