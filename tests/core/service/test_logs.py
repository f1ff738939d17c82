"""What a line of a log looks like, and which lines there are."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator

import pytest
from repository import ROOT

from pipesd_core.service import logs
from pipesd_core.service.logs import Changes, JsonLines, LogFormat, TextLines, printable, session_name

SetUp = Callable[[str, LogFormat], None]


@pytest.fixture
def set_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[SetUp]:
    """`logs.set_up` as at the start of a program; pytest has handlers of its own."""
    root = logging.getLogger()
    levels = {name: logging.getLogger(name).level for name in ("", *logs.OURS, *logs.EACH_REQUEST)}

    def start(level: str, style: LogFormat) -> None:
        monkeypatch.setattr(root, "handlers", [])
        logs.set_up(level, style)

    yield start
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def record(message: str, *values: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("pipesd_x", logging.WARNING, "x.py", 1, message, values, None)
    vars(made).update(extra)
    return made


def test_text() -> None:
    line = TextLines().format(record("a %s", "b"))
    assert line.endswith(" WARNING pipesd_x: a b")
    assert TextLines().format(record("a", request_id="req_1")).endswith(": a [req_1]")
    assert TextLines().format(record("request req_1", request_id="req_1")).endswith(": request req_1")


def test_json() -> None:
    fields = json.loads(JsonLines().format(record("a %s", "b\n", request_id="req_1", session="00ff")))
    assert fields.pop("time").endswith("+00:00")
    assert fields == {
        "level": "warning", "logger": "pipesd_x", "message": "a b\n", "request_id": "req_1", "session": "00ff",
    }  # fmt: skip
    try:
        raise ValueError("why")
    except ValueError as error:
        made = record("a")
        made.exc_info = (type(error), error, error.__traceback__)
    line = JsonLines().format(made)
    assert "\n" not in line
    assert "ValueError: why" in json.loads(line)["exception"]


@pytest.mark.parametrize("style", [TextLines(), JsonLines()])
def test_nobody_from_outside_can_write_a_line_of_their_own(style: logging.Formatter) -> None:
    evil = "x\n2026-01-01 INFO pipesd: all is well\x1b[2J\u2028"
    line = style.format(record("refused: %s", evil, request_id=evil))
    assert "\n" not in line
    assert "\x1b" not in line


def test_what_is_printable_stays() -> None:
    assert printable("schön, 漢字") == "schön, 漢字"
    assert printable("a\r\n\x00") == "a\\r\\n\\x00"


@pytest.mark.parametrize(("level", "ours", "others"), [("debug", 10, 20), ("info", 20, 20), ("error", 40, 40)])
def test_levels(set_up: SetUp, level: str, ours: int, others: int) -> None:
    set_up(level, "text")
    assert logging.getLogger("pipesd_agent.link.link").getEffectiveLevel() == ours
    assert logging.getLogger("pipesd_gateway.agents").getEffectiveLevel() == ours
    assert logging.getLogger("websockets.client").getEffectiveLevel() == others
    logs.set_up("error", "json")  # once is enough
    (handler,) = logging.getLogger().handlers
    assert isinstance(handler.formatter, TextLines)


def test_the_request_that_a_task_works_for(set_up: SetUp, capsys: pytest.CaptureFixture[str]) -> None:
    set_up("info", "json")
    logging.getLogger("pipesd_agent").info("before")
    token = logs.request_id.set("req_7")
    logging.getLogger("pipesd_agent").info("within")
    logs.request_id.reset(token)
    before, within = map(json.loads, capsys.readouterr().err.splitlines())
    assert "request_id" not in before
    assert within["request_id"] == "req_7"


def test_a_session_is_named_by_less_than_its_id() -> None:
    assert session_name(bytes(range(16))) == "00010203"


def test_every_logger_has_the_name_of_its_module_and_hears_of_the_level() -> None:
    """`--log-level` is of `logs.OURS`, so a logger with a name of its own would not follow it."""
    packages = {path.parent.name for path in ROOT.glob("*/src/*/__init__.py")}
    assert packages == set(logs.OURS)
    found = {}
    for path in ROOT.glob("*/src/**/*.py"):
        if path.name != "logs.py":
            found[path.name] = re.findall(r"getLogger\((.*?)\)", path.read_text("utf-8"))
    assert {name for names in found.values() for name in names} == {"__name__"}


def test_libraries_do_not_log_each_request_that_is_made_again_and_again(set_up: SetUp) -> None:
    set_up("debug", "text")
    for name in ("httpx", "httpcore.http11"):
        assert logging.getLogger(name).getEffectiveLevel() == logging.WARNING


def test_a_state_is_new_when_it_is_another() -> None:
    changes = Changes()
    assert [changes.new(state) for state in ("", "a", "a", "b", "a", "", "", "a")] == [
        False, True, False, True, True, True, False, True
    ]  # fmt: skip
    assert changes.new("a", "elsewhere")
    assert not changes.new("a")
    changes.forget("else")
    assert changes.new("a", "elsewhere")
    assert not changes.new("a")


def test_the_peers_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_PEERS", 2)
    changes = Changes()
    assert [changes.new("x", peer) for peer in "abca"] == [True] * 4
    assert not changes.new("x", "c")


def test_lines_about_refused_handshakes_are_dropped_and_no_others(
    set_up: SetUp, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up("info", "text")
    logs.drop_refusals()
    logs.drop_refusals()
    server = logging.getLogger("uvicorn.error")
    before = server.level
    server.setLevel(logging.INFO)
    try:
        server.info('%s - "WebSocket %s" %d', "me", "/", 401)
        server.info("connection rejected (%d %s)", 401, "Unauthorized")
        server.error("ASGI callable returned without completing handshake.")
        server.info('%s - "WebSocket %s" [accepted]', "me", "/")
    finally:
        server.filters.clear()
        server.setLevel(before)
    assert [line.partition("uvicorn.error: ")[2] for line in capsys.readouterr().err.splitlines()] == [
        'me - "WebSocket /" [accepted]'
    ]
