"""Both ends of our connections notice a dead peer."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from pipesd_core.service import sockets
from pipesd_core.service.http import SEND_TIMEOUT_S
from pipesd_core.service.program import listen
from pipesd_core.service.sockets import CLIENT_TIMEOUT_S, IDLE_S, PROBES, SERVER_TIMEOUT_S

linux = pytest.mark.skipif(sys.platform != "linux", reason="its options")


def test_a_client_that_rests_is_not_dead() -> None:
    assert SERVER_TIMEOUT_S > SEND_TIMEOUT_S
    assert IDLE_S * PROBES <= CLIENT_TIMEOUT_S


@linux
def test_accepted_connections_have_the_listener_s_options() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == IDLE_S
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == SERVER_TIMEOUT_S * 1000


def test_a_system_without_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TCP_KEEPIDLE", "TCP_USER_TIMEOUT", "TCP_KEEPINTVL", "TCP_KEEPCNT"):
        monkeypatch.delattr(socket, name, raising=False)
    assert sockets.options(7) == [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]


@pytest.fixture
def far() -> Iterator[tuple[str, str]]:
    """(name of a network namespace, its address); needs root."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root, and iproute2")
    name = f"pipesd{os.getpid()}"
    net = os.getpid() % 200

    def ip(*arguments: str) -> bool:
        return subprocess.run(["ip", *arguments], capture_output=True, check=False).returncode == 0

    try:
        made = (
            ip("netns", "add", name)
            and ip("link", "add", f"ps{net}a", "type", "veth", "peer", "name", f"ps{net}b", "netns", name)
            and ip("addr", "add", f"10.213.{net}.1/24", "dev", f"ps{net}a")
            and ip("link", "set", f"ps{net}a", "up")
            and ip("-n", name, "addr", "add", f"10.213.{net}.2/24", "dev", f"ps{net}b")
            and ip("-n", name, "link", "set", f"ps{net}b", "up")
        )
        if not made:
            pytest.skip("no network namespaces here")
        yield name, f"10.213.{net}.2"
    finally:
        ip("netns", "del", name)
        ip("link", "del", f"ps{net}a")


@linux
@pytest.mark.timeout(60)
def test_a_dead_link_is_noticed_in_silence(far: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer whose network is gone: nothing comes, not even a reset. Without the options a read waits for ever."""
    monkeypatch.setattr(sockets, "IDLE_S", 1)
    name, address = far
    peer = subprocess.Popen(
        ["ip", "netns", "exec", name, sys.executable, "-c", PEER, address], stdout=subprocess.PIPE, text=True
    )
    try:
        assert peer.stdout is not None
        port = int(peer.stdout.readline())
        with socket.socket() as sock:
            for option in sockets.options(3):
                sock.setsockopt(*option)
            sock.settimeout(30)
            sock.connect((address, port))
            assert sock.recv(10) == b"hello"
            device = f"ps{address.split('.')[2]}b"
            subprocess.run(["ip", "-n", name, "link", "set", device, "down"], check=True)
            began = time.monotonic()
            with pytest.raises(TimeoutError, match="Connection timed out"):
                sock.recv(10)
            assert time.monotonic() - began < 10
    finally:
        peer.kill()
        peer.wait(10)
        if peer.stdout is not None:
            peer.stdout.close()


PEER = """
import socket, sys, time
listener = socket.create_server((sys.argv[1], 0))
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
connection.sendall(b"hello")
time.sleep(60)
"""
