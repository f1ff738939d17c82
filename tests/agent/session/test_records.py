from __future__ import annotations

import json

from fake_gateway import opened, verdict
from test_stream import make

from pipesd_agent.session.records import KEPT, Records, RequestRecord
from pipesd_core.protocol.messages import Ack, Close, Draft, Run


def finished(number: int) -> RequestRecord:
    record = RequestRecord(f"id-{number}")
    stream = make(None, record)
    stream.receive(opened(3))
    stream.receive(verdict(3, 1, 2, 5, 6))
    for message, size in ((Draft(3, 0, 2, (1,)), 10), (Ack(3, 1), 5), (Run(3, 9), 6), (Close(3), 4)):
        stream.sent(message, size, 0.0)
    return record


def is_finished(records: Records) -> object:
    """Of the request `finished(1)`; None: it has no record."""
    record = records.get("id-1")
    return record and record["finished"]


def test_what_a_request_did() -> None:
    records = Records()
    records.add(finished(1))
    record = records.get("id-1")
    assert record is not None
    assert record["seconds"] >= 0
    assert (record["prompt_tokens"], record["output_tokens"]) == (2, 2)
    assert record["tokens"] == [(5, False), (6, False)]
    assert record["counts"] == {
        "tokens": 2, "forwards": 1, "verifications": 0, "requests": 0, "drafted": 0, "sent": 0, "accepted": 0,
        "discards": 0, "rejected": 0,
    }  # fmt: skip
    assert record["upload_bytes"] == {"open": 0, "drafts": 10, "acks": 5, "other": 10}
    json.dumps(record)


def test_a_running_request_has_a_record_of_what_there_is_so_far() -> None:
    records, running = Records(), finished(1)
    records.begin(running)
    record = records.get("id-1")
    assert record is not None
    assert (record["finished"], record["tokens"]) == (False, [(5, False), (6, False)])
    records.add(running)
    over = records.get("id-1")
    assert over is not None
    assert over | {"finished": False, "seconds": 0} == record | {"seconds": 0}
    assert over["finished"]


def test_a_running_request_that_no_gateway_has_opened_has_none() -> None:
    records = Records()
    records.begin(RequestRecord("id-1"))
    assert is_finished(records) is None
    records.add(finished(1))
    assert is_finished(records) is True, "the one before it"


def test_of_two_running_requests_with_one_id_the_last_is_shown() -> None:
    records, first, last = Records(), finished(1), finished(1)
    records.begin(first)
    records.begin(last)
    records.add(first)
    assert is_finished(records) is False
    records.add(last)
    assert is_finished(records) is True


def test_only_the_last_few_are_kept() -> None:
    records = Records()
    for number in range(KEPT + 3):
        records.add(finished(number))
    assert [records.get(f"id-{number}") is None for number in range(4)] == [True, True, True, False]
    assert records.get(f"id-{KEPT + 2}") is not None


def test_an_id_that_comes_again_counts_as_new() -> None:
    records = Records()
    for number in (*range(KEPT), 0, KEPT):
        records.add(finished(number))
    assert records.get("id-0") is not None
    assert records.get("id-1") is None


def test_what_never_began_is_not_recorded() -> None:
    records = Records()
    records.add(RequestRecord("id"))
    assert records.get("id") is None
    never = RequestRecord("id")
    records.begin(never)
    records.add(never)
    assert not records._running
