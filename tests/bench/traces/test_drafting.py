"""Rows along an answer are what the drafter proposes from each of its prefixes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from bench.proving.traces.drafting import rows_along, trace_of
from bench.proving.traces.table import DEPTH, NOTHING
from pipesd_agent.drafting.drafter import AnswerForm, DraftToken, NoDraft
from pipesd_agent.drafting.lookup import LookupDrafter
from pipesd_core.engine.interface import Opening
from pipesd_core.sampling.params import SamplingParams

EOS = 50


def proposal(path: Sequence[int]) -> DraftToken:
    """What the drafter below proposes after a path: a function of it alone."""
    number = hash((len(path), *path[-5:])) % 10_007
    return DraftToken(len(path), number % (EOS + 1), 1 / (1 + number % 7), number % 11, number % 3)


class Fake:
    """A drafter that sometimes needs another call."""

    capacity, fingerprint, n_vocab, max_context = 1, None, None, 300

    def __init__(self, forget: bool = False) -> None:
        self.paths: dict[int, list[int]] = {}
        self.calls = 0
        self._forget = forget

    def open(self, lane: int, prompt_ids: Sequence[int], params: SamplingParams) -> None:  # noqa: ARG002
        assert lane not in self.paths
        self.paths[lane] = list(prompt_ids)

    def constrain(self, lane: int, form: AnswerForm) -> None:
        raise AssertionError(lane, form)

    def close(self, lane: int) -> None:
        del self.paths[lane]

    def extend(self, lane: int, ids: Sequence[int]) -> None:
        self.paths[lane] += ids

    def truncate(self, lane: int, length: int) -> None:
        assert 1 <= length <= len(self.paths[lane])
        del self.paths[lane][length:]

    def behind(self, lane: int) -> bool:  # noqa: ARG002
        return False

    def draft(self, lanes: Sequence[int], feed: Sequence[int] = ()) -> list[DraftToken | NoDraft]:  # noqa: ARG002
        self.calls += 1
        return [self._next(lane) for lane in lanes]

    def _next(self, lane: int) -> DraftToken | NoDraft:
        if self._forget or self.calls % 5 == 0:
            return NoDraft.UNFINISHED
        token = proposal(self.paths[lane])
        self.paths[lane].append(token.token)
        return token

    def stop(self) -> None: ...

    def release(self) -> None: ...


def answer(number: int, length: int) -> tuple[Opening, list[int]]:
    """A target that mostly agrees with the drafter, and ends where an end of text comes first."""
    rng = np.random.default_rng(number)
    prompt = tuple(int(i) for i in rng.integers(0, EOS, 3 + number))
    tokens: list[int] = []
    while len(tokens) < length and EOS not in tokens:
        drafted = proposal([*prompt, *tokens]).token
        tokens.append(drafted if rng.random() < 0.7 else int(rng.integers(0, EOS)))
    return Opening(prompt, SamplingParams(0.5), length, (EOS,), "m"), tokens


def naive(opening: Opening, tokens: Sequence[int]) -> list[list[DraftToken]]:
    rows = []
    for position in range(len(tokens)):
        path = [*opening.prompt_ids, *tokens[:position]]
        row: list[DraftToken] = []
        while len(row) < DEPTH and not (row and row[-1].token == EOS):
            row.append(proposal([*path, *(token.token for token in row)]))
        rows.append(row)
    return rows


@pytest.mark.parametrize(("number", "length"), [*enumerate((40, 1, 33, 60, 60, 7, 60))])
def test_every_row_is_what_the_drafter_proposes_there(number: int, length: int) -> None:
    opening, tokens = answer(number, length)
    drafter, rows = Fake(), naive(opening, tokens)
    assert rows_along(drafter, opening, tokens) == rows
    assert not drafter.paths, "the lane is closed"


def test_rows_are_used_again() -> None:
    opening, tokens = answer(4, 60)
    drafter = Fake()
    rows = rows_along(drafter, opening, tokens)
    assert drafter.calls < 0.75 * sum(map(len, rows))


def test_rows_of_a_drafter_that_has_nothing_to_propose_here_and_there() -> None:
    opening = Opening((1, 2, 3, 4, 1, 2), SamplingParams(0.0), 9, (EOS,), "m")
    tokens = [3, 9, 1, 2, 3, 9, 1]
    rows = [[draft.token for draft in row] for row in rows_along(LookupDrafter(), opening, tokens, 3)]
    assert rows == [[3, 4, 1], [4, 1, 2], [], [2, 3, 9], [3, 9, 1], [9, 1, 2], [1, 2, 3]]


def test_a_trace_of_rows() -> None:
    opening, tokens = answer(4, 60)
    rows = naive(opening, tokens)
    trace = trace_of("t", opening, tokens, rows)
    assert (trace.prompt_length, trace.temperature, trace.eos) == (len(opening.prompt_ids), 0.5, (EOS,))
    for position, row in enumerate(rows):
        missing = DEPTH - len(row)
        assert trace.drafts[position].tolist() == [token.token for token in row] + missing * [NOTHING]
        np.testing.assert_allclose(trace.confidence[position], [t.confidence for t in row] + missing * [0.0])
        np.testing.assert_allclose(trace.margin[position], [t.margin for t in row] + missing * [0.0])
        np.testing.assert_allclose(trace.entropy[position], [t.entropy for t in row] + missing * [0.0])


def test_an_answer_that_does_not_fit() -> None:
    opening, _ = answer(0, 60)
    with pytest.raises(ValueError, match="are 343 tokens, but the drafter's context holds 300"):
        rows_along(Fake(), opening, [1] * 300)


def test_a_drafter_that_stands_still() -> None:
    with pytest.raises(RuntimeError, match="no token in 1000 forwards"):
        rows_along(Fake(forget=True), *answer(0, 5))
