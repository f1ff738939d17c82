"""Metric families as plain data, and their text in Prometheus' format.

An event loop fills a `Families`, which is cheap; `render` may run in a thread, since nothing it reads changes any more.
Label values are words of a fixed list: no figures (but in `le`), no sentences, nothing of a request.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, Literal

from msgspec import Struct

from pipesd_core.service.histograms import Histogram, HistogramSnapshot

if TYPE_CHECKING:
    from prometheus_client import Metric

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Kind = Literal["gauge", "counter", "histogram"]


class Sample(Struct, frozen=True):
    """One value of a family. Where `value` is a snapshot the family is a histogram."""

    labels: dict[str, str]
    value: float | HistogramSnapshot


class Family(Struct, frozen=True):
    """The samples of one name, all with the same label names. Names of counters are without their `_total`."""

    kind: Kind
    name: str
    documentation: str
    samples: list[Sample]


class Families:
    """What one scrape shows, in order.

    Each method adds a sample; further ones of the same name, with other labels, join the family of the first. A value
    that is None is not known, and not shown.

    Args:
        prefix: of all names, such as "pipesd_agent_".
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._families: dict[str, Family] = {}

    def __iter__(self) -> Iterator[Family]:
        return iter(self._families.values())

    def gauge(self, name: str, documentation: str, value: float | None, **labels: str) -> None:
        """Add what goes up and down."""
        if value is not None:
            self._add("gauge", name, documentation, float(value), labels)

    def counter(self, name: str, documentation: str, value: float | None, **labels: str) -> None:
        """Add what only grows. name: without `_total`."""
        if value is not None:
            self._add("counter", name, documentation, float(value), labels)

    def histogram(self, name: str, documentation: str, histogram: Histogram, **labels: str) -> None:
        """Add a snapshot of a histogram."""
        self._add("histogram", name, documentation, histogram.snapshot(), labels)

    def state(self, name: str, documentation: str, label: str, current: str | None, choices: Iterable[str]) -> None:
        """Add a gauge for each of `choices`: 1 for the current one, 0 for the others."""
        if current is not None:
            for choice in choices:
                self._add("gauge", name, documentation, float(choice == current), {label: choice})

    def _add(
        self, kind: Kind, name: str, documentation: str, value: float | HistogramSnapshot, labels: Mapping[str, str]
    ) -> None:
        family = self._families.setdefault(name, Family(kind, self._prefix + name, documentation, []))
        family.samples.append(Sample(dict(labels), value))


def render(families: Iterable[Family]) -> bytes:
    """The answer to a scrape, of `CONTENT_TYPE`. The first call loads prometheus_client, which takes 0.1 s and more."""
    from prometheus_client import CollectorRegistry, generate_latest

    collected = list(families)

    class Collector:
        def collect(self) -> Iterator[Metric]:
            return to_prometheus(collected)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector())
    return generate_latest(registry)


def to_prometheus(families: Iterable[Family]) -> Iterator[Metric]:
    """The families as prometheus_client's own, for the registry of another program."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.utils import floatToGoString

    for family in families:
        names = list(family.samples[0].labels)
        histograms = HistogramMetricFamily(family.name, family.documentation, labels=names)
        make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
        plain = make(family.name, family.documentation, labels=names)
        for sample in family.samples:
            labels = [sample.labels[name] for name in names]
            if isinstance(sample.value, HistogramSnapshot):
                bounds = [*map(floatToGoString, sample.value.bounds), "+Inf"]
                buckets = list(zip(bounds, sample.value.cumulative, strict=True))
                histograms.add_metric(labels, buckets, sample.value.total)
            else:
                plain.add_metric(labels, sample.value)
        yield histograms if family.kind == "histogram" else plain
