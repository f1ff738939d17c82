"""Metrics have names and labels that a dashboard can be built on, and the documents list those that there are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import product
from typing import Final, cast, get_args

import msgspec
import pytest
from repository import ROOT

from pipesd_agent.api.metrics import MODES, AgentRequests, Route, families_of
from pipesd_agent.control.batchers import BATCHERS
from pipesd_agent.control.figures import ControlFigures
from pipesd_agent.control.mode import Strategy
from pipesd_agent.control.triggers import KINDS
from pipesd_agent.session.counts import Counts
from pipesd_agent.telemetry.acceptance import Acceptance
from pipesd_agent.telemetry.monitor import Monitor, MonitorFigures
from pipesd_agent.telemetry.windows import Window
from pipesd_agent.tuning.optimizers.choice import MAKERS
from pipesd_core.engine.interface import Engine
from pipesd_core.service.exposition import Family
from pipesd_core.service.request_metrics import Outcome
from pipesd_gateway.metrics import GatewayMetrics, Source
from pipesd_vllm.metrics import PluginMetrics

WORDS: Final[dict[str, tuple[str, ...]]] = {
    "batcher": BATCHERS,
    "mode": MODES,
    "optimizer": tuple(MAKERS),
    "outcome": get_args(Outcome),
    "route": get_args(Route),
    "sampling": ("fixed", "greedy", "sampled"),
    "source": get_args(Source),
    "trigger": KINDS,
}
"""The values that a label may have."""
LOAD: Final = {"resumable": 1, "places_free": 1, "queued": 1}
Names = dict[str, tuple[str, ...]]
"""Label names by the name of a metric, as a document writes it: counters with `_total`, histograms as they are."""


def monitor_figures() -> MonitorFigures:
    """Everything is known."""
    acceptance = Acceptance()
    acceptance.judged(0.5, right=True)
    window = Window(tokens=100, seconds=5.0, verifications=10, forwards=20, verified=30, accepted=20)
    known = {name: 0.1 for name in MonitorFigures.__struct_fields__ if name.endswith("_s")}
    figures = msgspec.structs.replace(Monitor().figures(), **known)
    return msgspec.structs.replace(
        figures, acceptance=acceptance.rate, by_confidence=acceptance.bins, window=window, totals=Counts(), sessions=1
    )


def of_agent() -> list[Family]:
    """Of scrapes that between them show every name there is."""
    found: list[Family] = []
    for batcher, trigger, optimizer in product(BATCHERS, KINDS, MAKERS):
        figures = ControlFigures(
            monitor=monitor_figures(),
            n_hat=6,
            mean_length=3.0,
            plan=(1, 2, 3),
            batcher=batcher,
            trigger=trigger,
            thresholds=dict.fromkeys(WORDS["sampling"], (0.1, 0.2)),
            optimizer="bayes" if optimizer == "bayes" else "search",
            mode=Strategy.SPECULATIVE.label,
            mode_reason="a reason",
            running=1,
        )
        found += families_of(figures, AgentRequests())
    return found


def of_gateway() -> list[Family]:
    metrics = GatewayMetrics()
    for source in get_args(Source):
        metrics.measure(cast(Engine, None), source)
    return metrics.families(LOAD)


def of_plugin() -> list[Family]:
    metrics = PluginMetrics()
    metrics.gateway.measure(cast(Engine, None), "agent")
    metrics.gateway.measure(cast(Engine, None), "verify")
    return metrics.families()


def names_of(families: Iterable[Family]) -> Names:
    return {
        family.name + ("_total" if family.kind == "counter" else ""): tuple(sorted(family.samples[0].labels))
        for family in families
    }


def documented(file: str, heading: str) -> Names:
    """Those of a section."""
    text = (ROOT / "docs" / file).read_text("utf-8")
    (section,) = re.findall(rf"^## {heading}$(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    found: Names = {}
    for name, labels in re.findall(r"`(pipesd_[a-z_0-9]+[a-z0-9])(?:{([a-z,]+)})?`", section):
        found[name] = tuple(sorted(labels.split(","))) if labels else ()
    return found


@pytest.mark.parametrize(
    ("families", "prefixes"),
    [
        (of_agent(), ("pipesd_agent_",)),
        (of_gateway(), ("pipesd_gateway_", "pipesd_engine_")),
        (of_plugin(), ("pipesd_gateway_", "pipesd_engine_")),
    ],
    ids=["agent", "gateway", "plugin"],
)
def test_names_and_labels(families: list[Family], prefixes: tuple[str, ...]) -> None:
    for family in families:
        assert family.name.startswith(prefixes)
        assert re.fullmatch(r"[a-z]+(_[a-z0-9]+)*", family.name)
        assert family.documentation
        for sample in family.samples:
            assert sample.labels.keys() == family.samples[0].labels.keys()
            for label, value in sample.labels.items():
                if label != "le":
                    assert value in WORDS[label]
                    assert re.fullmatch(r"[a-z]+([_-][a-z]+)*", value), f"{label}={value}: a word of a fixed list"


def test_a_metric_has_one_meaning() -> None:
    """What two programs show by the same name says the same of itself."""
    of_both = [*of_gateway(), *of_plugin(), *of_agent()]
    assert len({family.name for family in of_both}) == len(
        {(family.name, family.kind, family.documentation) for family in of_both}
    )


def test_the_documents_list_what_there_is() -> None:
    ours, plugin = names_of([*of_agent(), *of_gateway()]), names_of(of_plugin())
    assert documented("operation.md", "Metrics") == ours
    in_vllm = documented("vllm.md", "Figures")
    assert in_vllm.items() <= plugin.items()
    assert plugin.keys() - ours.keys() <= in_vllm.keys()
