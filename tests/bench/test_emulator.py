"""The link emulator over real sockets: rates and delays within 3 %, and what each fault looks like at both ends.

Times are the best of some measurements: the machine is shared, and lateness is all that it can add.
"""

from __future__ import annotations

import contextlib
import math
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from bench.link.emulator import Emulator, rate
from bench.link.lane import Step, Way, redrawn

pytestmark = pytest.mark.alone

WITHIN = 0.03
MEASURE_S = 30.0
"""Longest wait for a moment in which the machine is not busy with something else."""


class Echo:
    """A server that keeps its connections, and sends back what it gets unless told to send something itself."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self.arrived = threading.Semaphore(0)
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.settimeout(10)
                self.connections.append(connection)
                self.arrived.release()

    def take(self) -> socket.socket:
        """The next connection."""
        assert self.arrived.acquire(timeout=10)
        return self.connections[-1]

    def close(self) -> None:
        for end in (self._listener, *self.connections):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def server() -> Iterator[Echo]:
    echo = Echo()
    yield echo
    echo.close()


@contextlib.contextmanager
def connected(server: Echo, emulator: Emulator) -> Iterator[tuple[socket.socket, socket.socket]]:
    """(client's end, server's end) of a connection through the link."""
    with socket.create_connection(("127.0.0.1", emulator.port), timeout=10) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield client, server.take()


def read(end: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = end.recv(65536)
        assert part, f"the end after {len(data)} of {size} bytes"
        data += part
    return bytes(data)


def transfer(sender: socket.socket, receiver: socket.socket, size: int) -> float:
    """Seconds from the first byte's being written to the last one's being read."""
    data = bytes(range(256)) * (size // 256)
    began = time.monotonic()
    writer = threading.Thread(target=sender.sendall, args=(data,))
    writer.start()
    got = read(receiver, len(data))
    took = time.monotonic() - began
    assert got == data
    writer.join()
    return took


def best(emulator: Emulator, measure: Callable[[], float], expected: float) -> float:
    """The time nearest to what is expected; stops as soon as it is near enough. Never too early."""
    taken: list[float] = []
    until = time.monotonic() + MEASURE_S
    while not taken or time.monotonic() < until:
        emulator.settle()
        taken.append(measure())
        assert taken[-1] > expected * (1 - WITHIN), f"{taken[-1]:.5f} s is too fast: {expected:.5f} s"
        if taken[-1] < expected * (1 + WITHIN):
            break
    return min(taken)


@pytest.mark.parametrize(
    ("up", "down"), [(30e3, math.inf), (1e6, 10e6), (20e6, 200e6), (80e6, 280e6)], ids=["30k", "1M", "20M", "80M"]
)
def test_rates(server: Echo, up: float, down: float) -> None:
    with Emulator(server.address, Way(up), Way(down)) as emulator, connected(server, emulator) as (client, far):
        for sender, receiver, bits in ((client, far, up), (far, client, down)):
            if bits < math.inf:
                size = int(bits * 0.5 / 8) // 256 * 256
                took = best(emulator, partial(transfer, sender, receiver, size), size * 8 / bits)
                assert took == pytest.approx(size * 8 / bits, rel=WITHIN)


def round_trip(client: socket.socket, far: socket.socket) -> float:
    began = time.monotonic()
    client.sendall(b"ping")
    far.sendall(read(far, 4))
    read(client, 4)
    return time.monotonic() - began


@pytest.mark.parametrize(("up", "down"), [(0.0125, 0.0125), (0.05, 0.1), (0.3, 0.0125)])
def test_delays(server: Echo, up: float, down: float) -> None:
    ways = Way(20e6, up), Way(200e6, down)
    with Emulator(server.address, *ways) as emulator, connected(server, emulator) as ends:
        assert best(emulator, lambda: round_trip(*ends), up + down) == pytest.approx(up + down, rel=WITHIN)


def test_delay_costs_no_rate_and_nothing_adds_up(server: Echo) -> None:
    """A long transfer over a long link is late by the delay once, and a message after it by the delay again."""
    way = Way(10e6, 0.1)
    with Emulator(server.address, way, way) as emulator, connected(server, emulator) as (client, far):
        size = 10_000_000 // 8 // 256 * 256
        expected = size * 8 / 10e6 + 0.1
        assert best(emulator, lambda: transfer(client, far, size), expected) == pytest.approx(expected, rel=WITHIN)
        assert best(emulator, lambda: round_trip(client, far), 0.2) == pytest.approx(0.2, rel=WITHIN)


def test_connections_share_the_link(server: Echo) -> None:
    with (
        Emulator(server.address, Way(2e6)) as emulator,
        connected(server, emulator) as first,
        connected(server, emulator) as second,
    ):
        taken: list[float] = []
        threads = [
            threading.Thread(target=lambda a=a, b=b: taken.append(transfer(a, b, 51200))) for a, b in (first, second)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert min(taken) > 0.9 * 2 * 51200 * 8 / 2e6, "neither has it for itself"
        assert emulator.bytes[0] == 2 * 51200


def test_jitter_keeps_the_order(server: Echo) -> None:
    way = Way(delay_s=0.02, jitter_s=0.03)
    with Emulator(server.address, way, seed=5) as emulator, connected(server, emulator) as (client, far):
        waits = []
        for number in range(20):
            began = time.monotonic()
            client.sendall(bytes([number]))
            assert read(far, 1) == bytes([number])
            waits.append(time.monotonic() - began)
        assert min(waits) > 0.02
        assert max(waits) - min(waits) > 0.01
        transfer(client, far, 2**20)


def test_a_trace(server: Echo) -> None:
    """80 ms at 1 Mbit/s, then 10 Mbit/s: 10 KB and 90 KB in 152 ms."""
    with Emulator(server.address, Way(1e6)) as emulator, connected(server, emulator) as (client, far):

        def measure() -> float:
            began = time.monotonic()  # the trace runs from here on, however late the transfer begins
            emulator.play([Step(0.08, 1e6, 1e6), Step(1.0, 10e6, 10e6)])
            transfer(client, far, 99_840)
            return time.monotonic() - began

        assert best(emulator, measure, 0.08 + 89_840 * 8 / 10e6) == pytest.approx(0.08 + 89_840 * 8 / 10e6, rel=WITHIN)
        emulator.play(redrawn(1, (5e6, 5e6), (5e6, 5e6), 20.0))
        emulator.throttle(1e3)
        emulator.normal()
        assert transfer(client, far, 25_600) > 0.9 * 25_600 * 8 / 5e6


def assert_silent(*ends: socket.socket) -> None:
    for end in ends:
        end.settimeout(0.2)
        with pytest.raises(TimeoutError):
            end.recv(1)
        end.settimeout(10)


def test_reset(server: Echo) -> None:
    with Emulator(server.address) as emulator, connected(server, emulator) as (client, far):
        round_trip(client, far)
        assert emulator.reset() == 1
        for end in (client, far):
            with pytest.raises(ConnectionResetError):
                end.recv(1)
        with connected(server, emulator) as ends:
            round_trip(*ends)
        assert emulator.connections == 2


def test_cut(server: Echo) -> None:
    with Emulator(server.address) as emulator, connected(server, emulator) as (client, far):
        client.sendall(b"never read")
        assert emulator.cut() == 1
        assert client.recv(1) == b""
        assert far.recv(100) in (b"", b"never read")
        assert far.recv(1) == b""


@pytest.mark.parametrize("stays", ["client", "server"])
def test_half_open(server: Echo, stays: str) -> None:
    with Emulator(server.address) as emulator, connected(server, emulator) as (client, far):
        round_trip(client, far)
        assert emulator.half_open("client" if stays == "client" else "server") == 1
        kept, dropped = (client, far) if stays == "client" else (far, client)
        with pytest.raises(ConnectionResetError):
            dropped.recv(1)
        kept.sendall(b"is anybody there?")
        assert_silent(kept)
        kept.sendall(b"hello?")
        assert emulator.reset() == 0
        with connected(server, emulator) as ends:
            round_trip(*ends)


def test_hang(server: Echo) -> None:
    with Emulator(server.address) as emulator, connected(server, emulator) as (client, far):
        round_trip(client, far)
        emulator.hang()
        client.sendall(b"one")
        far.sendall(b"two")
        with socket.create_connection(("127.0.0.1", emulator.port), timeout=10) as other:
            other.sendall(b"three")
            assert_silent(client, far, other)
            emulator.normal()
            assert read(far, 3) == b"one"
            assert read(client, 3) == b"two"
            assert read(server.take(), 5) == b"three"


def test_a_sender_feels_a_link_that_hangs(server: Echo) -> None:
    with Emulator(server.address, Way(1e6)) as emulator, connected(server, emulator) as (client, far):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        emulator.hang()
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.sendall(bytes(2**20))
        emulator.normal()
        assert far.recv(1) == b"\0"


def test_a_receiver_that_does_not_read_is_felt_by_the_sender(server: Echo) -> None:
    with Emulator(server.address) as emulator, connected(server, emulator) as (client, _):
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.sendall(bytes(64 * 2**20))


def test_stall(server: Echo) -> None:
    with Emulator(server.address) as emulator, connected(server, emulator) as ends:
        began = time.monotonic()
        emulator.stall(0.3)
        round_trip(*ends)
        assert 0.3 <= time.monotonic() - began < 10, "it ends by itself"


def test_throttle(server: Echo) -> None:
    """1 kbit/s: 25 bytes in 200 ms; and a packet that is leaving at that rate leaves at once when it is over."""
    with Emulator(server.address) as emulator, connected(server, emulator) as (client, far):
        emulator.throttle(1e3)

        def measure() -> float:
            began = time.monotonic()
            client.sendall(bytes(25))
            read(far, 25)
            return time.monotonic() - began

        assert best(emulator, measure, 0.2) == pytest.approx(0.2, rel=WITHIN)
        client.sendall(bytes(10_000))
        assert_silent(far)
        emulator.normal()
        began = time.monotonic()
        read(far, 10_000)
        assert time.monotonic() - began < 40, "80 s at the old rate"


def test_slice(server: Echo) -> None:
    with Emulator(server.address) as emulator, connected(server, emulator) as (client, far):
        emulator.slice(3, 0.01)
        client.sendall(b"abcdefghi")
        assert [far.recv(100) for _ in range(3)] == [b"abc", b"def", b"ghi"]


def test_refuse(server: Echo) -> None:
    with Emulator(server.address) as emulator, connected(server, emulator) as ends:
        emulator.refuse()
        emulator.refuse()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", emulator.port), timeout=10)
        round_trip(*ends)
        emulator.normal()
        with connected(server, emulator) as others:
            round_trip(*others)


def test_ends_are_passed_on(server: Echo) -> None:
    with Emulator(server.address, Way(delay_s=0.05)) as emulator, connected(server, emulator) as (client, far):
        client.sendall(b"last")
        client.shutdown(socket.SHUT_WR)
        assert read(far, 4) == b"last"
        assert far.recv(1) == b""
        far.sendall(b"answer")  # half closed is not closed
        assert read(client, 6) == b"answer"


def test_a_server_that_is_not_there(server: Echo) -> None:
    server.close()
    with Emulator(server.address) as emulator, socket.create_connection(("127.0.0.1", emulator.port)) as client:
        client.settimeout(10)
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_what_is_delivered_can_be_seen(server: Echo) -> None:
    seen: list[tuple[int, bytes]] = []
    with (
        Emulator(server.address, tap=lambda number, data: seen.append((number, data))) as emulator,
        connected(server, emulator) as ends,
        connected(server, emulator) as (client, far),
    ):
        client.sendall(b"up")
        read(far, 2)
        far.sendall(b"down")
        read(client, 4)
        assert ends
        assert seen == [(1, b"up")]


def test_the_command(server: Echo) -> None:
    host, port = server.address
    with subprocess.Popen(
        [sys.executable, "-m", "bench.link.emulator", "--to", f"{host}:{port}", "--delay-ms", "100", "--up", "1M"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        try:
            assert process.stdout is not None
            number = int(process.stdout.readline().rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", number), timeout=10) as client:
                assert 0.2 <= round_trip(client, server.take()) < 1.0
        finally:
            process.kill()


def test_rates_as_people_write_them() -> None:
    assert [rate(text) for text in ("20M", "100k", "9600", "1.5G")] == [20e6, 100e3, 9600.0, 1.5e9]
