"""Logs of our programs on stderr: one line for each event, text or JSON, with the id of its request.

No key, prompt or answer is logged at any level: our modules do not log them, and the libraries, some of which do at
level debug (headers, frames), are kept at info.
"""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from pipesd_core.sse import escaped

LogFormat = Literal["text", "json"]
OURS: Final = ("pipesd_core", "pipesd_gateway", "pipesd_agent", "pipesd_vllm")
"""Packages, whose modules have loggers of their own names."""

EACH_REQUEST: Final = ("httpx", "httpcore")
"""Loggers of libraries with a line for each request that we make, as often as we try again."""
MAX_PEERS: Final = 256
"""Most peers of which it is remembered what the log was told last."""
_OF_REFUSALS: Final = (
    '%s - "WebSocket %s" %d',
    "connection rejected (%d %s)",
    "ASGI callable returned without completing handshake.",
)
"""What uvicorn and websockets log of each handshake that is refused."""

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Id of the request that the running task works for; "" for none."""


def set_up(level: str, style: LogFormat) -> None:
    """Log to stderr. Where somebody has set up logging before, it stays as it is."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_add_request_id)
    handler.setFormatter(JsonLines() if style == "json" else TextLines())
    root.addHandler(handler)
    root.setLevel(library_level(level).upper())
    for name in EACH_REQUEST:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in OURS:
        logging.getLogger(name).setLevel(level.upper())


class Changes:
    """What the log was told last of each of some things, so that it is told again only what is another.

    What is tried again and again would otherwise fill the log with one line. The things are few, or peers: of the ones
    seen last `MAX_PEERS` are remembered.
    """

    def __init__(self) -> None:
        self._logged: dict[str, str] = {}

    def new(self, state: str, of: str = "") -> bool:
        """Whether the log is to be told this state, because it is another than before. "": as it should be."""
        before = self._logged.pop(of, "")
        if state:
            self._logged[of] = state
            while len(self._logged) > MAX_PEERS:
                del self._logged[next(iter(self._logged))]
        return state != before

    def forget(self, prefix: str) -> None:
        """Take it that all things whose name begins so are as they should be."""
        self._logged = {of: state for of, state in self._logged.items() if not of.startswith(prefix)}


def drop_refusals() -> None:
    """Keep the lines of uvicorn about refused handshakes out of the log: whoever refuses them logs why, and once."""
    logging.getLogger("uvicorn.error").addFilter(_is_no_refusal)


def _is_no_refusal(record: logging.LogRecord) -> bool:
    return record.msg not in _OF_REFUSALS


def library_level(level: str) -> str:
    """The level of the libraries' loggers where ours have `level`."""
    return "info" if level == "debug" else level


def printable(text: str) -> str:
    """Text from outside, fit for one line of a log."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def session_name(session_id: bytes) -> str:
    """The name of a session in logs: the beginning of its id, which as a whole is a secret of its two ends."""
    return session_id[:4].hex()


class TextLines(logging.Formatter):
    """Formats lines for people. A traceback follows on lines of its own."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        request = getattr(record, "request_id", "")
        return printable(
            super().formatMessage(record) + (f" [{request}]" if request and request not in record.message else "")
        )


class JsonLines(logging.Formatter):
    """Formats one JSON object a line, tracebacks included; a line for those too who split by Unicode's rules."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage().encode("utf-8", "backslashreplace").decode(),
        }
        for name in ("request_id", "session"):
            if value := getattr(record, name, ""):
                fields[name] = value
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return escaped(msgspec.json.encode(fields)).decode()


def _add_request_id(record: logging.LogRecord) -> bool:
    if not hasattr(record, "request_id"):
        record.request_id = request_id.get()
    return True
