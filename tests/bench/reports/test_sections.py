"""Tables of the report, from rows made up here; and what they need no rows for."""

from __future__ import annotations

from typing import Any

import pytest
from made import table_lines as lines

from bench.proving.reports.sections import (
    Rows,
    best_causal,
    cloud_only,
    equal_navs,
    manifest,
    matrix,
    page,
    paper_ms,
    tuned,
)


def row(method: str, tpt_ms: float, **more: Any) -> dict[str, Any]:
    cell = {"workload": "made-up", "scenario": "1-laptop", "payload": "ids", "within_cap": True, "parameters": []}
    return cell | {"method": method, "tpt_ms": tpt_ms, "forwards_per_token": 0.25} | more


def rows(*more: dict[str, Any], cloud_ms: float = 5.0) -> Rows:
    return Rows(
        [
            row("cloud-only", cloud_ms, forwards_per_token=1.0),
            row("pipesd", 40.0, parameters=[0.5, "immediate", 12], navs_per_token=0.25, bytes_up_per_token=123456.7),
            row("pipesd+payload", 100.0, payload="paper"),
            row("ours-forwards", 50.0, within_cap=False),
            {"workload": "made-up", "scenario": "1-laptop", "method": "clairvoyant", "tpt_ms": 30.0},
            *more,
        ]
    )


def test_the_matrix() -> None:
    other = row("pipesd", 41.26, scenario="2-phone")
    assert lines(matrix(rows(other), "made-up")) == {
        "TPT, ms": ["1-laptop", "2-phone"],
        "---": ["--:", "--:"],
        "cloud-only": ["5.0", ""],
        "pipesd": ["40.0", "41.3"],
        "pipesd+payload": ["100.0", ""],
        "ours-forwards": ["50.0*", ""],
        "clairvoyant": ["30.0", ""],
    }


def test_a_workload_s_page_is_sorted_by_time_and_has_the_paper_s_number() -> None:
    head, table = page(rows(), "made-up").split("## 1-laptop")
    assert head.startswith("# All methods on made-up\n")
    cells = lines(table)
    assert list(cells)[2:] == ["cloud-only", "clairvoyant", "pipesd", "ours-forwards*", "pipesd+payload"]
    assert cells["pipesd+payload"][:3] == ["100.0", "129", "1.00"]
    assert cells["pipesd"][:3] == ["40.0", "", "0.40"]
    assert "123457" in cells["pipesd"]
    assert cells["pipesd"][-1] == "0.5, immediate, 12"


@pytest.mark.parametrize(
    ("scenario", "method", "ms"),
    [
        ("3-iot", "vanilla-6+payload", 306),
        ("3-iot", "vanilla-8+payload", None),
        ("1-laptop", "pipesd-token+payload", 137),
        ("2-phone", "pipesd-token+payload", None),
        ("1-laptop@40", "vanilla-8+payload", 115.6),
        ("1-laptop@40", "pipesd+payload", 79.7),
        ("1-laptop", "pipesd", None),
        ("fast-edge", "pipesd+payload", None),
    ],
)
def test_what_the_paper_has(scenario: str, method: str, ms: float | None) -> None:
    assert paper_ms(scenario, method) == ms


@pytest.mark.parametrize(
    ("cloud_ms", "forwards", "said"),
    [
        (5.0, 0.2, "**cloud-only**"),
        (60.0, 0.2, "drafting"),
        (38.1, 0.2, "equal"),
        (60.0, 1.0, "the same: nothing is drafted"),
    ],
)
def test_it_says_plainly_where_cloud_only_is_faster(cloud_ms: float, forwards: float, said: str) -> None:
    table = lines(cloud_only(rows(row("ours", 38.0, forwards_per_token=forwards), cloud_ms=cloud_ms)))
    cells = table["made-up, 1-laptop"]
    assert cells[:4] == [said, f"{cloud_ms:.1f}", "ours", "38.0"]
    assert cells[5:] == ["40.0", "0.250", "50.0*", "0.250"]


def test_the_best_causal_policy_and_how_far_others_are_above_it() -> None:
    families = {"ours": 45.0, "ours, sequence": 44.0, "pipesd": 40.0, "hsl": 42.0}
    best = row("best-causal", 40.0, parameters=["pipesd", 0.5, "dp", (1, 0)], families=families)
    assert lines(best_causal(rows(best))) == {
        "workload, scenario": ["the best", "ms", "forwards", "best of ours", "best of the others", "ours-forwards"],
        "---": ["---", "--:", "--:", "--:", "--:", "--:"],
        "made-up, 1-laptop": ["pipesd, 0.5, dp, (1, 0)", "40.0", "0.250", "1.10", "1.00", "1.25*"],
    }


def test_ours_beside_the_best_of_the_others_with_as_few_navs() -> None:
    found = rows(
        row("hsl-tuned", 38.0, navs_per_token=0.3),
        row("vanilla-6", 39.0, navs_per_token=0.2),
        row("ours", 35.1, navs_per_token=0.24),
        row("ours-forwards", 50.0, navs_per_token=0.2),
    )
    assert lines(equal_navs(found))["made-up, 1-laptop"] == [
        *("vanilla-6", "39.0", "0.200"),
        *("35.1", "0.240", "0.90", "50.0", "0.200", "1.28"),
    ]


def test_tuned_methods_have_ratios_to_pipesd_as_published() -> None:
    table = lines(tuned(rows()))
    assert table["ours-forwards"][:3] == ["50.0* (0.50)", "0.250", ""]
    assert table["clairvoyant"][:2] == ["30.0 (0.30)", ""]


def test_the_manifest_leaves_out_what_differs_from_run_to_run() -> None:
    text = manifest({"seconds": 1.5, "command": ["x"], "scenarios": {}, "workloads": {}, "seeds": {"made-up": 11}})
    assert text == '```json\n{\n "seeds": {\n  "made-up": 11\n }\n}\n```'
