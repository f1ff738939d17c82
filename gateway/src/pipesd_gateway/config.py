"""Configuration of `pipesd-gateway serve`."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from pipesd_core.errors import ConfigError
from pipesd_core.openai_parameters import UnknownParameters
from pipesd_core.service import settings
from pipesd_core.service.hosts import check_allowed_hosts
from pipesd_core.service.logs import LogFormat
from pipesd_core.service.settings import KEEP_ALIVE_S, KeySource, Program, check_log_level, check_origins, within
from pipesd_core.service.trust import server_context
from pipesd_gateway.quota import MAX_SESSIONS_PER_KEY

KEYS: Final = KeySource("api_keys", "api_key_file", "PIPESD_GATEWAY_API_KEY")
PROGRAM: Final = Program("PIPESD_GATEWAY_", (KEYS,))


class GatewayConfig(Struct, frozen=True, kw_only=True):
    """Configuration of one gateway. Raises ConfigError where a value cannot work.

    model: GGUF file of the target. name: its name in the API; "": the name in the file. chat_template: Jinja file that
    takes the place of the model's own template. n_seq: sequences that run at once. context: tokens of each, prompt and
    answer together. threads: of llama.cpp. max_queue: length of the admission queue. park_timeout: seconds that a
    session waits for a silent edge. grace: seconds that a session waits for a lost agent to resume it; 0: it ends with
    its link. step_floor_ms: least time of an engine step, to emulate a bigger target. max_sessions_per_key: agents'
    sessions, over all their connections (`quota`). unknown_parameters: of requests, see `openai_parameters`. tls_cert,
    tls_key: PEM files; without them no TLS. cors_origin: web origins allowed to call the API. allowed_host: host names
    to answer to beside those of loopback, see `service.hosts`. drain_timeout: seconds to finish requests after SIGTERM.
    keep_alive: seconds until an idle connection is closed. api_keys: empty means open. api_key_file: file of the keys;
    None: they come from the environment.
    """

    model: Path
    host: str = "127.0.0.1"
    port: int = 8100
    name: str = ""
    chat_template: Path | None = None
    n_seq: int = 4
    context: int = 2048
    threads: int = 1
    max_queue: int = 16
    park_timeout: float = 5.0
    grace: float = 30.0
    step_floor_ms: float = 0.0
    max_sessions_per_key: int = MAX_SESSIONS_PER_KEY
    unknown_parameters: UnknownParameters = "refuse"
    tls_cert: Path | None = None
    tls_key: Path | None = None
    cors_origin: tuple[str, ...] = ()
    allowed_host: tuple[str, ...] = ()
    drain_timeout: float = 30.0
    keep_alive: int = KEEP_ALIVE_S
    log_level: str = "info"
    log_format: LogFormat = "text"
    api_keys: frozenset[str] = frozenset()
    api_key_file: Path | None = None

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
        within("drain_timeout", self.drain_timeout, 0, 86_400)
        within("keep_alive", self.keep_alive, 1, 3600)
        check_origins(self.cors_origin)
        check_allowed_hosts(self.allowed_host)
        check_log_level(self.log_level)
        if self.tls_key is not None and self.tls_cert is None:
            raise ConfigError("tls_key is of use with tls_cert only: give both, or neither")

    def tls(self, environ: Mapping[str, str] = os.environ) -> ssl.SSLContext | None:
        """The TLS context of the server; None: no TLS. Raises ConfigError."""
        if self.tls_cert is None:
            return None
        return server_context(environ, self.tls_cert, self.tls_key)


def load(flags: Mapping[str, Any], environ: Mapping[str, str], file: Path | None) -> GatewayConfig:
    """Load the configuration; see `settings.load`. Raises ConfigError."""
    try:
        return settings.load(GatewayConfig, PROGRAM, flags, environ, file)
    except ConfigError as error:
        if "missing required field `model`" in str(error):
            raise ConfigError('no model: give --model FILE.gguf, or model = "FILE.gguf" in the file') from None
        raise
