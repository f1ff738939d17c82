"""Construction of an agent from its configuration: the one place that knows which class serves which setting."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipesd_agent.config import AgentConfig
from pipesd_agent.control.mode import ModeSelector, Strategy, Switch
from pipesd_agent.control.triggers import DualSettings, FixedSettings
from pipesd_agent.drafting.drafter import Drafter
from pipesd_agent.drafting.settings import Resources
from pipesd_agent.drafting.status import DraftingOff, DraftingStatus
from pipesd_agent.drafting.worker import DraftWorker
from pipesd_agent.link.gateways import Gateways
from pipesd_agent.link.link import Link
from pipesd_agent.link.requests import LinkSettings
from pipesd_agent.local.model import IDLE_S, LocalModel
from pipesd_agent.telemetry.tracing import TraceFiles
from pipesd_agent.tuning.background import Background
from pipesd_agent.tuning.optimizers.choice import INSTALL, LABELS, OptimizerName, in_use
from pipesd_agent.tuning.per_sampling import Tuners
from pipesd_agent.tuning.replay import UploadStrategy
from pipesd_agent.tuning.store import ThresholdStore, state_file
from pipesd_agent.tuning.worker_process import WorkerProcess
from pipesd_core.errors import ModelLoadError

if TYPE_CHECKING:
    from pipesd_agent.agent import Agent
    from pipesd_agent.control.controller import Controller
    from pipesd_core.llamacpp.runtime.engine import EmbeddedEngine

log = logging.getLogger(__name__)

UPLOAD_STRATEGIES: Final[dict[str, UploadStrategy]] = {
    "immediate": "immediate",
    "single": "single",
    "dp": "planned",
    "expected": "planned",
}
"""How each batcher uploads drafts, as far as the tuner has to know."""


def _log_probe(switch: Switch) -> None:
    log.info("mode: probing %s (%s)", switch.strategy.label, switch.reason)


def make_agent(config: AgentConfig, drafter: Drafter | None = None) -> Agent:
    """Make an agent as configured, or with another drafter. Blocks while models load.

    Raises ModelLoadError, ConfigError.
    """
    traces = TraceFiles(config.trace) if config.trace else None
    network = config.network(os.environ)
    drafting = _drafting_status(config)
    gateways = Gateways(config.addresses, partial(_note_link, drafting))
    worker = None
    if config.mode not in ("cloud", "edge"):
        made = drafter or config.drafter.make(_resources(config))
        worker = DraftWorker(made, partial(drafting.set_off, DraftingOff.DRAFTER_BROKEN))
    # After the model: an HTTP client is a tenth of all that the agent imports, and nobody waits for it there.
    from pipesd_agent.agent import Agent
    from pipesd_agent.link.model_list import ModelList
    from pipesd_agent.link.passthrough import PassthroughClient

    if config.mode != "auto" and config.objective != "latency":
        log.warning("mode: objective %s applies to mode auto only, but mode is %s", config.objective, config.mode)
    if isinstance(config.trigger, FixedSettings) and config.trigger.length > (window := config.session.window):
        length = config.trigger.length
        log.warning("trigger.length is %d, but session.window is %d, which is used", length, window)
    controller = _make_controller(config, gateways, worker, partial(_note_switch, drafting))
    settings = LinkSettings(config.gateway_api_key, controller.policies, config.sessions, controller.planner.room_at)
    local_only, local = config.mode == "edge", None
    if config.draft_model is not None:
        if config.fallback == "edge" and not config.draft_model.is_file():  # or else found out only when it is needed
            raise ModelLoadError(f"the draft model {config.draft_model} does not exist: fallback needs it")
        load = partial(_load_local_engine, config, config.draft_model)
        local = LocalModel(load, idle_s=None if local_only else IDLE_S)
        if local_only:
            local.load()
    return Agent(
        Link(gateways, settings, worker, network),
        ModelList(gateways, config.gateway_api_key, network),
        PassthroughClient(gateways, config.gateway_api_key, network),
        worker,
        cloud_on_mismatch=config.mode == "auto",
        local=local,
        fallback=config.fallback,
        local_only=local_only,
        traces=traces,
        controller=controller,
        drafting=drafting,
    )


def _drafting_status(config: AgentConfig) -> DraftingStatus:
    """The status that a new agent's drafting has, which is also logged."""
    drafter, model, off = config.drafter_name, config.draft_model, [DraftingOff.NO_GATEWAY]
    if config.drafts_by_model:
        why = f"the draft model {drafter} drafts"
    elif model is None:
        why = f"no draft model is given: {drafter} drafts from the text itself"
    else:
        why = f"drafter.kind is {drafter}: it drafts from the text itself, not the draft model {model.name}"
    if config.mode in ("cloud", "edge"):
        off.append(DraftingOff.MODE_CLOUD if config.mode == "cloud" else DraftingOff.MODE_EDGE)
        why = f"nothing is drafted: mode is {config.mode}"
    log.info("drafting: %s", why)
    return DraftingStatus(drafter, why, *off)


def _note_link(drafting: DraftingStatus, connected: bool) -> None:
    if connected:
        drafting.set_on(DraftingOff.NO_GATEWAY)
    else:
        drafting.set_off(DraftingOff.NO_GATEWAY)


def _note_switch(drafting: DraftingStatus, switch: Switch) -> None:
    log.info("mode: switched to %s (%s)", switch.strategy.label, switch.reason)
    if switch.strategy is Strategy.TARGET_ONLY:
        drafting.set_off(DraftingOff.TARGET_ONLY, switch.reason)
    else:
        drafting.set_on(DraftingOff.TARGET_ONLY)


def _make_controller(
    config: AgentConfig, gateways: Gateways, worker: DraftWorker | None, on_switch: Callable[[Switch], None]
) -> Controller:
    from pipesd_agent.control.controller import Controller  # numpy, which comes with the model
    from pipesd_agent.control.upload_planner import Planner

    tuners, optimizer = None, None
    if config.tuner.enabled and isinstance(config.trigger, DualSettings) and worker is not None:
        optimizer = _optimizer(config)
        file = state_file()
        tuners = Tuners(
            config.trigger.pair,
            Background(WorkerProcess(optimizer)).proposer,
            window=config.session.window,
            upload=UPLOAD_STRATEGIES[config.batcher],
            verification_cost_ms=config.verification_cost_ms,
            kept=None if file is None else ThresholdStore(file),
            draft=f"{config.drafter_name} {(worker.fingerprint or b'').hex()}",
        )

    selector = None
    if config.mode == "auto":
        selector = ModeSelector(config.objective, on_switch=on_switch, on_probe=_log_probe)

    def gateway() -> str:
        return "" if gateways.current is None else gateways.current.address.http

    return Controller(
        config.trigger,
        Planner(config.batcher),
        auto=selector,
        mode=config.mode,
        tuners=tuners,
        optimizer=optimizer,
        gateway=gateway,
    )


def _optimizer(config: AgentConfig) -> OptimizerName:
    """The optimizer in use, which is also logged."""
    optimizer = in_use(config.tuner.optimizer)
    lacking = f" (scikit-optimize is not installed: {INSTALL})" if config.tuner.optimizer == "auto" else ""
    log.info("tuner: searching thresholds by %s%s", LABELS[optimizer], lacking if optimizer == "search" else "")
    return optimizer


def _load_local_engine(config: AgentConfig, model: Path) -> EmbeddedEngine:
    from pipesd_core.llamacpp.loading import announced
    from pipesd_core.llamacpp.probe import check_model_runs
    from pipesd_core.llamacpp.runtime.decoder import TargetDecoder
    from pipesd_core.llamacpp.runtime.engine import EmbeddedEngine

    with announced(model):
        if config.mode in ("cloud", "edge") or config.gpu_layers or not config.drafts_by_model:  # else it was tried
            check_model_runs(model)
        decoder = TargetDecoder(model, n_seq=config.capacity, n_ctx_seq=config.context, threads=config.threads)
    return EmbeddedEngine(decoder, name=decoder.model.name)


def _resources(config: AgentConfig) -> Resources:
    return Resources(config.draft_model, config.capacity, config.context, config.threads, config.gpu_layers)
