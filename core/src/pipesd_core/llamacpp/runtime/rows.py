"""Row counts of the sequences in one llama_decode, chosen so that logits do not depend on what else is in it.

llama.cpp computes the logits of a position bit for bit the same, whatever the batch, if in every *ubatch* every
sequence has 2 to 63 rows (measured with flash attention on, separate KV, F32 or F16 weights): one row takes a
matrix-vector kernel with another order of additions, 64 rows take a tiled attention kernel. Ubatches are cut by
llama.cpp itself (`llama_batch_allocr::split_equal`): the first goes over the sequences from the lowest id on while ids
are adjacent, takes the same number of rows from each, as many as the shortest has; then again with what is left. So
counts of 3 and 2 become ubatches of (2, 2) and (1): the third row is a single one. Dummy rows prevent that; they are
truncated after the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

MIN_ROWS: Final = 2
MAX_ROWS: Final = 63
"""Most rows of a sequence in one ubatch, dummy rows included."""
MAX_WANTED: Final = MAX_ROWS - 1
"""Most rows that a sequence may ask for: `padded` adds one at most."""
MAX_DRAFTS: Final = MAX_WANTED - 1
"""Most drafts in one verification: the last committed token has a row as well."""


def padded(counts: Sequence[int]) -> list[int]:
    """Rows per sequence, dummy rows included, for sequences that ask for `counts` rows each (1 to MAX_WANTED).

    Each result is the count or one more. Results are at least 2, and two of them are equal or differ by at least 2:
    whatever llama.cpp takes off in an earlier ubatch is another sequence's count, so what is left is never 1.
    """
    result = {}
    below = 0
    for count in sorted(set(counts)):
        if not 1 <= count <= MAX_WANTED:
            raise ValueError(f"a sequence asks for 1 to {MAX_WANTED} rows in one decode, not {count}")
        count_now = count + 1 if count - below == 1 else max(count, below)
        result[count] = below = count_now
    return [result[count] for count in counts]
