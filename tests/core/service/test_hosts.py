"""Which names a server answers to, by where it listens and what is allowed; requests are in test_http_semantics."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pipesd_core.errors import ConfigError
from pipesd_core.service.hosts import (
    HostNames,
    Misdirected,
    check_allowed_hosts,
    host_of,
    names_of,
)
from pipesd_core.service.program import listen
from pipesd_core.service.sockets import is_loopback

OWN = ["localhost", "localhost:8101", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.1.2.3:80", "[::1]", "[0::1]:80"]
FOREIGN = ["evil.example", "localhost.evil.example", "10.0.0.1", "[fd00::1]", "xlocalhost", "[::2]", "a b", "[x]"]


def answers(names: HostNames, host: str) -> bool:
    try:
        names.check(host)
    except Misdirected:
        return False
    return True


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_on_loopback_it_answers_to_this_machine_and_what_is_allowed(address: str) -> None:
    with listen(address, 0) as listener:
        assert is_loopback(listener)
        names = names_of(("Chat.Example", "[fd00::1]"), loopback=is_loopback(listener))
    assert [
        host for host in (*OWN, "chat.example:443", "CHAT.example.", "[fd00:0::1]:80") if not answers(names, host)
    ] == []
    assert [host for host in (*FOREIGN[:3], "a.chat.example") if answers(names, host)] == []


def test_elsewhere_only_where_names_are_given() -> None:
    with listen("0.0.0.0", 0) as listener:
        assert not is_loopback(listener)
        names = names_of((), loopback=is_loopback(listener))
        assert [host for host in OWN + FOREIGN if not answers(names, host)] == []
        names = names_of(("gateway.example",), loopback=is_loopback(listener))
        assert [host for host in [*OWN, "gateway.example"] if not answers(names, host)] == []
        assert [host for host in FOREIGN if answers(names, host)] == []


def test_a_star_allows_every_name() -> None:
    with listen("127.0.0.1", 0) as listener:
        names = names_of(("*",), loopback=is_loopback(listener))
    assert [host for host in OWN + FOREIGN if not answers(names, host)] == []


def test_the_refusal_says_what_to_do() -> None:
    with pytest.raises(Misdirected, match=r"'evil\.example:80': use localhost or .* --allowed-host") as refused:
        HostNames(checked=True).check("evil.example:80")
    assert refused.value.status == 421


def test_no_host_is_no_browser_s() -> None:
    assert answers(HostNames(checked=True), "")


def test_a_unix_socket_is_reached_by_no_page(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        assert not is_loopback(listener)
        assert answers(names_of((), loopback=is_loopback(listener)), "anything")


@pytest.mark.parametrize("value", ["", "a:80", "http://a", "a/b", "a b", "[::1]:80", "[x]", "*.a:1", "fd00::1"])
def test_what_cannot_be_allowed(value: str) -> None:
    with pytest.raises(ConfigError, match="allowed_host must be a name or an address without a port"):
        check_allowed_hosts(("a.example", value))
    check_allowed_hosts(("a.example", "*", "[fd00::1]", "10.0.0.1", "host.docker.internal"))


def test_one_form_of_each_host() -> None:
    assert host_of("A.example.:80") == host_of("a.EXAMPLE") == "a.example"
    assert host_of("[FD00:0:0::1]:1") == host_of("[fd00::1]") == "fd00::1"
    assert host_of("a b") is None
    assert host_of("[fe80::1%25eth0]:80") == "fe80::1%25eth0"  # as some clients send the zone
