"""Which graphs were captured and which steps use them, by what the runner's dispatcher answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from bench.gpu.graphs import FULL, Step, Traffic, captured, counted, dispatched, shortcomings

K = 15
SIZES = {"1": [1, 2, 8], "16": [16, 128]}


def graph(mode: str, tokens: int, uniform: int | None) -> Any:
    return SimpleNamespace(cg_mode=SimpleNamespace(name=mode), num_tokens=tokens, uniform_token_count=uniform)


def ordinary(*steps: Step) -> Traffic:
    return Traffic("8 ordinary", 1, list(steps))


def test_full_graphs_are_told_by_their_tokens_a_request() -> None:
    graphs = [graph(FULL, 8, 1), graph(FULL, 1, 1), graph(FULL, 16, 16), graph("PIECEWISE", 512, None)]
    assert captured(graphs) == {"1": [1, 8], "16": [16]}


def test_each_answer_of_the_dispatcher_is_noted_and_passed_on() -> None:
    answer = graph(FULL, 8, 1)
    steps: list[Step] = []
    dispatch = dispatched(SimpleNamespace(dispatch=lambda *_, **__: answer), steps)
    assert dispatch(5, 5, 1, 0, max_query_len=1) is answer
    assert steps == [Step(5, 5, 1, FULL, 8)]


def test_uniform_steps_that_are_no_full_graph_are_named() -> None:
    good = Step(8, 8, 1, FULL, 8)
    mixed = Step(3, 40, None, "PIECEWISE", 40)
    larger = Step(9, 9, 1, "NONE", 9)
    assert shortcomings(SIZES, K, [ordinary(good, mixed, larger)]) == []
    bad = Step(2, 2, 1, "PIECEWISE", 2)
    (said,) = shortcomings(SIZES, K, [ordinary(good, bad)])
    assert said.startswith("8 ordinary: 1 of 2 uniform steps are no full graph")


def test_graphs_that_were_not_captured_and_traffic_without_uniform_steps_are_named() -> None:
    found = shortcomings({"16": [16]}, K, [Traffic("8 sessions", 16, [Step(1, 3, 3, "NONE", 3)])])
    assert found == ["no full graph for 1 tokens a request", "8 sessions: no step has 16 tokens for each request"]


def test_steps_are_counted_by_shape() -> None:
    shapes, line = counted(ordinary(Step(8, 8, 1, FULL, 8), Step(7, 7, 1, FULL, 8), Step(2, 9, None, "NONE", 9)))
    assert shapes == {"1 FULL": 2, "mixed NONE": 1}
    assert line == "8 ordinary: 2 steps 1 FULL, 1 steps mixed NONE"
