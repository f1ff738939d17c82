"""Configuration of `pipesd-agent`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from msgspec import Struct
from msgspec.structs import force_setattr, replace

from pipesd_agent.control.batchers import check_batcher
from pipesd_agent.control.mode import Objective
from pipesd_agent.control.triggers import DualSettings, TriggerSettings
from pipesd_agent.drafting.settings import AutoSettings, DrafterSettings
from pipesd_agent.link.address import Address
from pipesd_agent.link.network import DIRECT, Network
from pipesd_agent.local.fallback import FallbackPolicy
from pipesd_agent.session.settings import SessionSettings
from pipesd_agent.tuning.settings import OFFLOAD_VERIFICATION_COST_MS, TunerSettings
from pipesd_core.errors import ConfigError
from pipesd_core.openai_parameters import UnknownParameters
from pipesd_core.service import settings
from pipesd_core.service.hosts import check_allowed_hosts
from pipesd_core.service.logs import LogFormat
from pipesd_core.service.settings import KEEP_ALIVE_S, KeySource, Program, check_log_level, check_origins, within

GATEWAY_KEY: Final = KeySource("gateway_api_keys", "gateway_api_key_file", "PIPESD_AGENT_GATEWAY_API_KEY")
"""The key that the agent sends to its gateways."""
KEYS: Final = KeySource("api_keys", "api_key_file", "PIPESD_AGENT_API_KEY")
"""The keys that the agent's own API accepts."""
PROGRAM: Final = Program("PIPESD_AGENT_", (GATEWAY_KEY, KEYS))
MAX_GATEWAYS: Final = 8
"""Gateways of the list; a client may have to wait for an attempt to connect to each."""


class AgentConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Configuration of an agent. Raises ConfigError for a value that cannot work.

    gateway: address of the gateway, http(s):// or ws(s)://, or a list of them, the preferred one first.
    draft_model: GGUF file of the draft model; none: prompt lookup drafts.
    mode: "auto": collaborative or cloud-only, whichever serves the objective, and cloud-only where the drafter's
    vocabulary does not fit; "collaborative": always; "cloud": never draft; "edge": never ask a gateway, the draft
    model alone. objective: of mode `auto`, see `mode.ModeSelector`.
    fallback: when the cloud is gone, an error or the draft model alone.
    capacity: clients drafted for at once, others are served cloud-only. context: tokens of each that can be drafted
    within. threads: of llama.cpp. gpu_layers: layers of the draft model on a GPU; -1: all.
    ca_file: certificate authority of wss:// gateways. api_keys: keys that the agent's own API accepts, empty: anybody
    may use it; api_key_file: where they come from, None: the environment. cors_origin: web origins that may use it.
    allowed_host: host names that it answers to beside those of loopback, see `service.hosts`. unknown_parameters: of
    requests, see `openai_parameters`. drain_timeout: seconds that running requests have after SIGTERM. keep_alive:
    seconds until an idle connection to the agent's API is closed. trace: folder for traces of finished requests.
    batcher: when drafts leave before a verification takes them (`batchers.BATCHERS`). drafter, trigger, tuner, session:
    tables.
    """

    gateway: str | tuple[str, ...] = "http://127.0.0.1:8100"
    gateway_api_keys: frozenset[str] = frozenset()
    gateway_api_key_file: Path | None = None
    api_keys: frozenset[str] = frozenset()
    api_key_file: Path | None = None
    ca_file: Path | None = None
    draft_model: Path | None = None
    mode: Literal["auto", "collaborative", "cloud", "edge"] = "auto"
    objective: Objective = "latency"
    fallback: FallbackPolicy = "error"
    host: str = "127.0.0.1"
    port: int = 8101
    capacity: int = 4
    context: int = 2048
    threads: int = 1
    gpu_layers: int = 0
    batcher: str = "expected"
    drafter: DrafterSettings = AutoSettings()
    trigger: TriggerSettings = DualSettings()
    tuner: TunerSettings = TunerSettings()
    session: SessionSettings = SessionSettings()
    unknown_parameters: UnknownParameters = "refuse"
    cors_origin: tuple[str, ...] = ()
    allowed_host: tuple[str, ...] = ()
    drain_timeout: float = 30.0
    keep_alive: int = KEEP_ALIVE_S
    trace: Path | None = None
    log_level: str = "info"
    log_format: LogFormat = "text"

    def __post_init__(self) -> None:
        if isinstance(self.gateway, str):
            force_setattr(self, "gateway", (self.gateway,))
        addresses = self.addresses
        within("the number of gateways", len(addresses), 1, MAX_GATEWAYS)
        for address in addresses:
            if addresses.count(address) > 1:
                raise ConfigError(f"gateway has {address.http} twice; leave one out")
        within("port", self.port, 0, 65535)
        within("capacity", self.capacity, 1, 64)
        within("context", self.context, 64, 2**20)
        within("threads", self.threads, 1, 256)
        within("gpu_layers", self.gpu_layers, -1, 10_000)
        check_batcher(self.batcher)
        if self.trigger.needs_entropy and not self.drafts_by_model and self.mode != "cloud":
            raise ConfigError(
                f"trigger.kind {self.trigger.kind!r} looks at the draft model's entropy, and {self.drafter_name} has "
                "none: set draft_model (and drafter.kind auto), or another trigger.kind"
            )
        if self.tuner.verification_cost_ms is not None and not (
            self.tuner.enabled and isinstance(self.trigger, DualSettings)
        ):
            raise ConfigError(
                f"tuner.verification_cost_ms is {self.tuner.verification_cost_ms}, but nothing is tuned with "
                f"tuner.enabled = {str(self.tuner.enabled).lower()} and trigger.kind {self.trigger.kind!r}: "
                "leave it out"
            )
        within("drain_timeout", self.drain_timeout, 0, 86_400)
        within("keep_alive", self.keep_alive, 1, 3600)
        check_origins(self.cors_origin)
        check_allowed_hosts(self.allowed_host)
        check_log_level(self.log_level)
        for name in ("mode", "fallback"):
            if getattr(self, name) == "edge" and self.draft_model is None:
                raise ConfigError(f'{name} = "edge" needs a model that can answer alone: set draft_model')
        if len(self.gateway_api_keys) > 1:
            raise ConfigError(f"the agent needs one key for its gateway, but {len(self.gateway_api_keys)} were given")

        if self.ca_file is not None and not self._secure:
            given = ", ".join(address.http for address in addresses)
            raise ConfigError(f"ca_file is of use for https:// and wss:// gateways only, but the gateway is {given}")

    @property
    def drafts_by_model(self) -> bool:
        """Whether a draft model drafts."""
        return self.draft_model is not None and self.drafter.runs_model

    @property
    def drafter_name(self) -> str:
        """What drafts: the file name of the draft model, or the kind of the drafter."""
        if self.draft_model is not None and self.drafter.runs_model:
            return self.draft_model.name
        return self.drafter.without_model

    @property
    def gateway_api_key(self) -> str | None:
        """The key that the agent sends to its gateways; None: it sends none."""
        return next(iter(self.gateway_api_keys), None)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The addresses of the gateways, the preferred one first."""
        given = (self.gateway,) if isinstance(self.gateway, str) else self.gateway
        return tuple(map(Address.parse, given))

    @property
    def sessions(self) -> SessionSettings:
        """The session settings in force: with the objective `offload` the target waits for the first draft."""
        if self._offload and self.session.free_start is None:
            return replace(self.session, free_start=1)  # the prompt's own step
        return self.session

    @property
    def verification_cost_ms(self) -> float:
        """The value of `tuner.verification_cost_ms` in force, in milliseconds."""
        if self.tuner.verification_cost_ms is not None:
            return self.tuner.verification_cost_ms
        return OFFLOAD_VERIFICATION_COST_MS if self._offload else 0.0

    def network(self, environ: Mapping[str, str]) -> Network:
        """The network as the gateways are reached by it. Raises ConfigError."""
        if self.mode == "edge":
            return DIRECT
        return Network(
            environ, [url for address in self.addresses for url in (address.http, address.socket)], self.ca_file
        )

    @property
    def _offload(self) -> bool:
        return self.mode == "auto" and self.objective == "offload"

    @property
    def _secure(self) -> bool:
        return any(address.secure for address in self.addresses)


def load(flags: Mapping[str, Any], environ: Mapping[str, str], file: Path | None) -> AgentConfig:
    """The configuration from flags, environment and file, see `settings.load`. Raises ConfigError."""
    return settings.load(AgentConfig, PROGRAM, flags, environ, file)
