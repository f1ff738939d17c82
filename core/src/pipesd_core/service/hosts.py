"""Host names that a server answers to. Pure.

A web page can have its own host name resolve to the user's machine, and then reads a server there as its own (DNS
rebinding): the browser sends no `Origin` with a GET, and hides nothing. What it cannot choose is the name that stands
in `Host`.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final

from msgspec import Struct

from pipesd_core.errors import ConfigError, InvalidRequest

ANY: Final = "*"
"""The value of `--allowed-host` for all names."""
_ADDRESS: Final = r"\[[0-9A-Fa-f:.]+(?:%[0-9A-Za-z%._~-]+)?\]"
_NAME: Final = r"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*"
_HOST: Final = re.compile(rf"({_ADDRESS}|{_NAME})(?::[0-9]*)?")
"""`uri-host [":" port]` of RFC 9110, 7.2, less the address formats of the future; and zones of link-local addresses."""


class Misdirected(InvalidRequest):
    status = 421
    """RFC 9110, 7.4: this server does not answer for that name."""


class HostNames(Struct, frozen=True):
    """The names that one server answers to.

    allowed: names and addresses that were given. checked: whether any other is refused, but for those of this machine.
    """

    allowed: frozenset[str] = frozenset()
    checked: bool = False

    def check(self, given: str) -> None:
        """Check the `Host` of a request. Raises Misdirected.

        An empty one, or none, is no browser's: load balancers ask so for health.
        """
        if not self.checked or not given:
            return
        host = host_of(given)
        if host is not None and (host in self.allowed or _is_this_machine(host)):
            return
        raise Misdirected(
            f"this server does not answer to the host name {given[:128]!r}: use localhost or a loopback address, or "
            "allow the name with --allowed-host"
        )


def names_of(allowed: tuple[str, ...], *, loopback: bool) -> HostNames:
    """The names that a server answers to: any, unless it listens on loopback, or some are given."""
    names = frozenset(name for name in map(host_of, allowed) if name is not None)
    return HostNames(names, (loopback or bool(names)) and ANY not in names)


def check_allowed_hosts(values: tuple[str, ...]) -> None:
    """Raise ConfigError for what is no host name or address as it stands in a URL, without its port."""
    for value in values:
        if value != ANY and (not value or host_of(value) is None or _port(value)):
            raise ConfigError(
                f"allowed_host must be a name or an address without a port, such as chat.example or [fd00::1], "
                f"or {ANY}, but one is {value!r}"
            )


def is_host(value: str) -> bool:
    """Whether a value may stand in the header `Host`; the empty one may."""
    return _HOST.fullmatch(value) is not None


def host_of(value: str) -> str | None:
    """The host of a `Host` header, without its port, in the one form that is compared; None: it is none."""
    found = _HOST.fullmatch(value)
    if found is None:
        return None
    host = found[1].lower().removesuffix(".")
    try:
        return str(ip_address(host.strip("[]")))
    except ValueError:
        return None if host.startswith("[") else host


def _is_this_machine(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761, 6.3: never asked of a name server
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _port(value: str) -> bool:
    return value.rpartition("]")[2].count(":") > 0
