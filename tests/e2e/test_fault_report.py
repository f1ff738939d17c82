"""The judgement of the fault suites: what must not happen is seen when it happens."""

from __future__ import annotations

import pytest
from fault_clients import Case, End, Request, Way
from fault_plan import Happened, Kind
from fault_report import Run, Uploads, ends, outcomes
from relay import Sent

from pipesd_core.protocol.messages import VERSION, Endpoint, Open, Resume

CASE = Case("completions", {}, "right text", "length")
ERROR = {"message": "the link was lost; try again", "type": "server_error", "param": None, "code": None}


def request(**what: object) -> Request:
    made = Request(0, Way.HTTPX, CASE, stream=True, began=100.0, ended=103.0, status=200)
    for name, value in what.items():
        setattr(made, name, value)
    return made


def run(*requests: Request, dead: bool = False) -> Run:
    cut = Happened(Kind.CUT, 0, 101.0, 101.0)
    return Run(1, requests, [cut], lambda *_: dead)


RIGHT = request(text="right text", reason="length", complete=True)
LABEL = {"mode": "edge", "model": "small", "from_token": 2}


@pytest.mark.parametrize(
    ("ended", "end"),
    [
        (RIGHT, End.RIGHT),
        (request(text="right", error=ERROR), End.ERROR),
        (request(status=503, error=ERROR), End.ERROR),
        (request(text="rig", left=True), End.LEFT),
        (request(text="rig", others=True, label=LABEL, reason="stop", complete=True), End.FALLBACK),
    ],
)
def test_how_a_request_may_end(ended: Request, end: End) -> None:
    story = run(ended)
    story.check()
    assert story.judged[0].end is end
    assert story.judged[0].met == {Kind.CUT}


@pytest.mark.parametrize(
    ("ended", "why"),
    [
        (request(text="wrong", error=ERROR), "does not write"),
        (request(text="right text, right text", complete=True), "does not write"),
        (request(text="right", reason="length", complete=True), "looks whole"),
        (request(text="right text", complete=True), "looks whole"),
        (request(text="right"), "nobody says so"),
        (request(text="rig", others=True, reason="stop", complete=True), "nobody says so"),
        (request(text="wro", others=True, label=LABEL, reason="stop", complete=True), "does not write"),
        (request(hung=True), "no end"),
        (request(broken="ReadError()"), "the connection broke"),
        (request(status=500, error=ERROR), "status 500"),
        (request(status=503, error={"message": "x"}), "not OpenAI-shaped"),
        (request(ended=200.0, text="right text", reason="length", complete=True), "its bound was"),
    ],
)
def test_how_it_must_not(ended: Request, why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        run(RIGHT, ended).check()


def test_a_connection_may_break_with_its_agent() -> None:
    story = run(request(broken="ReadError()", text="right"), dead=True)
    story.check()
    assert story.judged[0].end is End.BROKEN


def test_what_is_told() -> None:
    story = run(RIGHT, request(text="", error=ERROR), request(left=True))
    table = outcomes(story).splitlines()
    assert table[2] == "| cut (FIN) | 1 | 2 | 1 | 1 | 0 | 0 | 0.0 |"
    assert table[-1] == "| **all** | **1** | 2 | 1 | 1 | 0 | 0 | |"
    assert "1 clients left" in ends(story, Uploads(3, 4))
    assert "resumed: 3" in ends(story, Uploads(3, 4))
    assert "was lost: 4" in ends(story, Uploads(3, 4))


def test_resumed_and_reopened() -> None:
    opens = [Open(0, VERSION, Endpoint.COMPLETIONS, b"{}", None, name) for name in ("a", "b", "a")]
    sent = [Sent("open", 9, message) for message in opens] + [
        Sent("resume", 9, Resume(0, bytes(16), 1)),
        Sent("ping", 2),
    ]
    assert Uploads.of(sent) == Uploads(resumed=1, reopened=1)
