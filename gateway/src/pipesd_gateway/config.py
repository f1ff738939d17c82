"""Configuration of `pipesd-gateway serve`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from pipesd_gateway import settings
from pipesd_gateway.exceptions import ConfigError
from pipesd_gateway.quota import MAX_SESSIONS_PER_KEY
from pipesd_gateway.settings import KeySource, check_log_level, within

KEYS: Final = KeySource("api_keys", "api_key_file", "PIPESD_API_KEY")


class GatewayConfig(Struct, frozen=True, kw_only=True):
    """What the gateway runs with. Raises ConfigError where a value cannot work.

    model: GGUF file of the target. name: its name in the API ("": the one that the file says). n_seq: sessions at
    once. context: tokens of each, prompt and answer together. threads: of llama.cpp. max_queue: requests that may wait
    for a session. park_timeout: seconds that a session waits for a silent edge. grace: seconds that a session
    waits for a lost agent to resume it; 0: it ends with its link. step_floor_ms: least time of an engine
    step, to emulate a bigger target. max_sessions_per_key: of agents, over all their connections (`quota`). api_keys:
    empty means open.
    """

    model: Path
    host: str = "127.0.0.1"
    port: int = 8100
    name: str = ""
    n_seq: int = 4
    context: int = 2048
    threads: int = 1
    max_queue: int = 16
    park_timeout: float = 5.0
    grace: float = 30.0
    step_floor_ms: float = 0.0
    max_sessions_per_key: int = MAX_SESSIONS_PER_KEY
    log_level: str = "info"
    api_keys: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        within("port", self.port, 0, 65535)
        within("n_seq", self.n_seq, 1, 64)
        within("context", self.context, 16, 2**20)
        within("threads", self.threads, 1, 256)
        within("max_queue", self.max_queue, 0, 4096)
        within("park_timeout", self.park_timeout, 0.05, 3600)
        within("grace", self.grace, 0, 3600)
        within("step_floor_ms", self.step_floor_ms, 0, 60_000)
        within("max_sessions_per_key", self.max_sessions_per_key, 1, 2**20)
        check_log_level(self.log_level)


def load(flags: Mapping[str, Any], environ: Mapping[str, str], file: Path | None) -> GatewayConfig:
    """See `settings.load`. Raises ConfigError."""
    try:
        return settings.load(GatewayConfig, KEYS, flags, environ, file)
    except ConfigError as error:
        if "missing required field `model`" in str(error):
            raise ConfigError('no model: give --model FILE.gguf, or model = "FILE.gguf" in the file') from None
        raise
