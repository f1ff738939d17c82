"""The text of a scrape, read back with the client's own parser."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from pipesd_core.service.exposition import Families, render
from pipesd_core.service.histograms import Histogram


def test_the_text_of_each_kind() -> None:
    families = Families("x_")
    families.gauge("size", "How large", 2)
    families.gauge("unknown", "Not shown", None)
    families.counter("done", "How many", 3, kind="a")
    families.counter("done", "How many", 4, kind="b")
    families.counter("unknown", "Not shown", None)
    families.state("mode", "Which one", "mode", "on", ("on", "off"))
    families.state("unknown", "Not shown", "mode", None, ("on", "off"))
    histogram = Histogram((0.5, 10))
    for value in (0.5, 3, 20):
        histogram.observe(value)
    families.histogram("wait_seconds", "How long", histogram)
    assert render(families).decode() == (
        "# HELP x_size How large\n"
        "# TYPE x_size gauge\n"
        "x_size 2.0\n"
        "# HELP x_done_total How many\n"
        "# TYPE x_done_total counter\n"
        'x_done_total{kind="a"} 3.0\n'
        'x_done_total{kind="b"} 4.0\n'
        "# HELP x_mode Which one\n"
        "# TYPE x_mode gauge\n"
        'x_mode{mode="on"} 1.0\n'
        'x_mode{mode="off"} 0.0\n'
        "# HELP x_wait_seconds How long\n"
        "# TYPE x_wait_seconds histogram\n"
        'x_wait_seconds_bucket{le="0.5"} 1.0\n'
        'x_wait_seconds_bucket{le="10.0"} 2.0\n'
        'x_wait_seconds_bucket{le="+Inf"} 3.0\n'
        "x_wait_seconds_count 3.0\n"
        "x_wait_seconds_sum 23.5\n"
    )


def test_what_is_shown_does_not_change_afterwards() -> None:
    histogram, families = Histogram((1,)), Families("x_")
    families.histogram("wait_seconds", "How long", histogram, kind="a")
    histogram.observe(0.5)
    (family,) = text_string_to_metric_families(render(families).decode())
    assert {sample.value for sample in family.samples} == {0.0}
