"""Which messages have come, what may be acknowledged, and when."""

from __future__ import annotations

import pytest

from pipesd_agent.session.state.acknowledgements import ACK_BYTES, ACK_EVERY, Acknowledgements
from pipesd_core.errors import ProtocolError
from pipesd_core.protocol.messages import MAX_UNACKED


def receive(acks: Acknowledgements, count: int) -> list[int]:
    """The next messages, each with a payload; returns the numbers that the client's payloads have."""
    numbers = []
    for _ in range(count):
        assert acks.receive(acks.received + 1)
        acks.payload(acks.received, 10)
        numbers.append(acks.delivered(acks.received))
    return numbers


def test_a_repeated_message_is_none_and_a_missing_one_an_error() -> None:
    acks = Acknowledgements()
    assert acks.receive(1)
    assert not acks.receive(1)
    with pytest.raises(ProtocolError, match="message 3 of the session came after 1"):
        acks.receive(3)
    assert acks.received == 1


def test_what_the_client_has_not_taken_is_not_acknowledged() -> None:
    acks = Acknowledgements()
    numbers = receive(acks, ACK_EVERY + 2)
    assert acks.next_ack() is None
    acks.taken(numbers[ACK_EVERY - 2])
    assert acks.next_ack() is None, "too few"
    acks.taken(numbers[ACK_EVERY - 1])
    assert acks.next_ack() == ACK_EVERY
    assert acks.next_ack() is None, "once"


def test_many_bytes_are_acknowledged_early() -> None:
    acks = Acknowledgements()
    assert acks.receive(1)
    acks.payload(1, ACK_BYTES)
    assert acks.next_ack() == 1


def test_messages_without_a_payload_wait_for_nobody() -> None:
    acks = Acknowledgements()
    for seq in range(1, ACK_EVERY + 1):
        assert acks.receive(seq)
    assert acks.next_ack() == ACK_EVERY


def test_a_client_far_behind_holds_the_gateway_up() -> None:
    acks = Acknowledgements()
    numbers = receive(acks, MAX_UNACKED // 2 + 1)
    found = [acks.held_up]
    receive(acks, 1)
    found.append(acks.held_up)
    acks.taken(numbers[-1])
    found.append(acks.held_up)
    assert found == [False, True, False]


def test_after_a_lost_link_the_last_ack_is_repeated() -> None:
    acks = Acknowledgements()
    acks.link_resumed()
    assert acks.next_ack() is None, "there was none"
    acks.taken(receive(acks, ACK_EVERY)[-1])
    assert acks.next_ack() == ACK_EVERY
    acks.link_resumed()
    assert acks.next_ack() == ACK_EVERY
    assert acks.next_ack() is None


def test_another_gateway_counts_anew_and_the_client_goes_on() -> None:
    acks = Acknowledgements()
    before = receive(acks, 3)
    acks.handed_off()
    assert acks.received == 0
    after = receive(acks, ACK_EVERY)
    assert after[0] == before[-1] + 1
    acks.taken(before[-1])
    assert acks.next_ack() is None
    acks.taken(after[-1])
    assert acks.next_ack() == ACK_EVERY
