"""What a scrape shows, read back with the client's own parser."""

from __future__ import annotations

from decisions import Decider
from fake_gateway import opened
from prometheus_client.parser import text_string_to_metric_families

from pipesd_agent.api.metrics import exposition
from pipesd_agent.control.figures import ControlFigures
from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.session.counts import Counts
from pipesd_agent.telemetry.monitor import Monitor
from pipesd_core.protocol.messages import Reason, Verdict


def shown(figures: ControlFigures) -> dict[str, tuple[float, dict[str, str]]]:
    families = text_string_to_metric_families(exposition(figures).decode())
    return {sample.name: (sample.value, sample.labels) for family in families for sample in family.samples}


def test_what_is_not_known_is_not_shown() -> None:
    assert shown(ControlFigures()) == {}
    empty = shown(ControlFigures(Monitor().figures()))
    assert {value for value, _ in empty.values()} == {0.0}
    assert all(name.endswith("_total") for name in empty)


def test_everything() -> None:
    monitor = Monitor()
    watch = monitor.observer()
    watch.opened(opened(0), Counts(tokens=240, drafted=60, forwards=60, verifications=60, accepted=60, sent=60), 0.0)
    decider = Decider(watch)
    for step in range(60):
        watch.drafted(DraftToken(step, 7, 0.97, seconds=0.03), float(step))
        watch.judged(DraftToken(step, 7, 0.97), right=True, now=float(step))
        decider.decided(Verdict(0, step, step, 3, 3, (7,) * 4, Reason.VERIFICATION, 2000, 40_000, 0), step * 0.2)
    figures = ControlFigures(
        monitor=monitor.figures(),
        n_hat=6,
        plan=(1, 2, 3),
        batcher="dp",
        trigger="dual",
        thresholds={"greedy": (0.1, 0.2)},
        optimizer="search",
        mode="collaborative",
        mode_reason='the draft is "faster":\n2 lines',
        requests=3,
        running=1,
    )
    values = shown(figures)
    assert values["pipesd_gamma_seconds"][0] == 0.03 or abs(values["pipesd_gamma_seconds"][0] - 0.03) < 1e-9
    assert values["pipesd_confidence_acceptance_ratio"] == (1.0, {"upto": "0.98"})
    assert abs(values["pipesd_token_seconds"][0] - 0.05) < 1e-9
    assert values["pipesd_navs_per_token"][0] == 0.25
    assert values["pipesd_drafted_tokens_total"][0] == 60
    assert values["pipesd_plan_info"][1] == {"batcher": "dp", "batches": "1 2 3"}
    assert values["pipesd_tuner_info"][1] == {"optimizer": "search"}
    assert values["pipesd_mode_info"][1] == {"mode": "collaborative", "reason": 'the draft is "faster":\n2 lines'}
    assert [values[f"pipesd_{name}"][0] for name in ("n_hat", "r1", "r2", "requests_total")] == [6, 0.1, 0.2, 3]
    assert "pipesd_alpha_seconds" not in values, "no gateway has told of arrivals"
