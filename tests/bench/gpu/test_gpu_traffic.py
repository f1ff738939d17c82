"""The arithmetic of ordinary traffic, and the two servers' command lines."""

from __future__ import annotations

import pytest

from bench.gpu.traffic import PLUGIN, STOCK, Samples, command, compared, environ, figures
from bench.vllm.clients import Answer


def answer(*arrivals: tuple[float, int]) -> Answer:
    return Answer([1], [7] * sum(n for _, n in arrivals), list(arrivals))


def test_throughput_is_that_of_all_streams_and_tpot_begins_behind_the_first_piece() -> None:
    found = figures([answer((11.0, 2), (12.0, 4)), answer((11.0, 1), (14.0, 3))], 10.0)
    assert found == {"tokens_per_s": 10 / 4.0, "tpot_ms": pytest.approx((250.0 + 1000.0) / 2)}


def test_an_answer_of_one_piece_has_no_tpot_and_one_without_tokens_is_an_error() -> None:
    assert figures([answer((11.0, 3))], 10.0)["tpot_ms"] == 0.0
    with pytest.raises(ValueError, match="no tokens"):
        figures([answer()], 10.0)


def test_a_ratio_is_the_plugins_over_stocks() -> None:
    stock = [{"tokens_per_s": 100.0 + n, "tpot_ms": 10.0} for n in range(5)]
    plugin = [{"tokens_per_s": 2 * one["tokens_per_s"], "tpot_ms": 5.0} for one in stock]
    samples: Samples = {8: {STOCK: stock, PLUGIN: plugin}, 32: {STOCK: stock[:1], PLUGIN: []}}
    found = compared(samples)
    assert found["streams"].keys() == {"8"}
    row = found["streams"]["8"]
    assert row["pairs"] == 5
    assert row["tokens_per_s"]["ratio"]["median"] == pytest.approx(2.0)
    assert row["tpot_ms"]["ratio"] == {"median": 0.5, "low": 0.5, "high": 0.5}
    assert len(found["lines"]) == 1


def test_the_servers_differ_by_the_plugin_alone() -> None:
    stock, plugin = (command(kind, "M", "bfloat16", 1234, 128, ["--x"]) for kind in (STOCK, PLUGIN))
    assert stock[stock.index("--served-model-name") :] == plugin[plugin.index("--served-model-name") :]
    assert plugin[1:5] == ["serve", "M", "--runner", "v2"]
    assert environ(STOCK) == environ(PLUGIN) | {"VLLM_PLUGINS": ""}
