"""The way to other servers: which proxy, if any, the environment names for a URL. Sans-I/O.

Our HTTP and WebSocket libraries read these variables too, but each by rules of its own, and what they cannot use is an
exception in the middle of something. So they are read here, once, and the libraries are told the outcome.

The lower-case name of a variable overrides the upper-case one, an empty value unsets it. Loopback never goes through a
proxy: no proxy could reach this machine's own.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from fnmatch import fnmatchcase
from importlib.util import find_spec
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from msgspec import Struct

from pipesd_core.errors import ConfigError

VARIABLES: Final = {
    "http": ("http_proxy", "all_proxy"),
    "https": ("https_proxy", "all_proxy"),
    "ws": ("ws_proxy", "http_proxy", "all_proxy"),
    "wss": ("wss_proxy", "https_proxy", "all_proxy"),
}
"""For each kind of URL the variables that may name its proxy: the first one that is set does."""
EXCEPTIONS: Final = "no_proxy"
"""The variable that lists the hosts which are reached directly."""
_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443, "socks5": 1080, "socks5h": 1080}
_SOCKS_PACKAGES: Final = ("python_socks", "socksio")
"""What the WebSocket library and the HTTP library need for a SOCKS proxy."""


class Proxy(Struct, frozen=True):
    """A proxy that we can speak to.

    url: with credentials, escaped, and a port. variable: where it is from. shown: for people, without credentials.
    """

    url: str
    variable: str
    shown: str

    @property
    def secure(self) -> bool:
        """Whether it is spoken to over TLS."""
        return self.url.startswith("https:")


class Proxies:
    """The proxies and the exceptions that an environment names. What is not asked for is not checked."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._set: dict[str, tuple[str, str]] = {}
        """Variables that are set, by their names in lower case: the name as it is, and the value."""
        names = {EXCEPTIONS}.union(*VARIABLES.values())
        for name in sorted(environ):  # upper case comes first
            if name.lower() not in names or name not in (name.lower(), name.upper()):
                continue
            if name == "HTTP_PROXY" and "REQUEST_METHOD" in environ:
                continue  # a CGI program's: a header of the request, which anybody may send
            self._set.pop(name.lower(), None)
            if environ[name].strip():
                self._set[name.lower()] = name, environ[name].strip()

    def of(self, url: str) -> Proxy | None:
        """The proxy for a URL; None: it is reached directly. Raises ConfigError for one that cannot be used."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            return None  # no address at all: whoever connects says so
        named = next((name for name in VARIABLES.get(parts.scheme, ()) if name in self._set), None)
        if not host or named is None or is_loopback(host) or self._is_exception(host, port or _PORTS[parts.scheme]):
            return None
        return _parse(*self._set[named], host)

    def _is_exception(self, host: str, port: int) -> bool:
        variable, value = self._set.get(EXCEPTIONS, ("", ""))
        wrong: ConfigError | None = None
        for entry in value.replace(",", " ").split():
            try:
                if _matches(entry, host, port, variable):
                    return True
            except ConfigError as error:  # which does not matter where another entry means this host
                wrong = error
        if wrong is not None:
            raise wrong
        return False


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, as far as its name says so."""
    name = _canonical(host)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(name)
    return address is not None and (address.is_loopback or address.is_unspecified)


def shown(value: str) -> str:
    """A variable's value for a message: without credentials, and on one line."""
    scheme, separator, rest = value.rpartition("://")
    credentials, at, rest = rest.rpartition("@")
    return repr(f"{scheme}{separator}{'***' if credentials or at else ''}{at}{rest}"[:200])


def _parse(variable: str, value: str, host: str) -> Proxy:
    remedy = f"correct or unset it, or add {host} to NO_PROXY"
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        name, port = parts.hostname or "", parts.port
        name.encode("idna")
        user, password = (unquote(part or "", errors="strict") for part in (parts.username, parts.password))
        rest = parts.path.strip("/") + parts.query + parts.fragment
        usable = bool(name) and not rest and port != 0 and value.isprintable() and " " not in value
    except ValueError:  # UnicodeError is one
        usable = False
    if not usable:
        raise ConfigError(
            f"the environment variable {variable} must name a proxy such as http://proxy.example:3128, but is "
            f"{shown(value)}: {remedy}"
        )
    scheme = parts.scheme
    if scheme.startswith("socks"):
        lacking = [package for package in _SOCKS_PACKAGES if find_spec(package) is None]
        if scheme not in ("socks5", "socks5h") or lacking:
            needed = f", with {' and '.join(package.replace('_', '-') for package in lacking)} installed" * bool(
                lacking
            )
            raise ConfigError(
                f"the environment variable {variable} is {shown(value)}, and a SOCKS proxy can be used as "
                f"socks5h://{needed}: name an http:// proxy, or {remedy}"
            )
    elif scheme not in ("http", "https"):
        raise ConfigError(
            f"the environment variable {variable} is {shown(value)}, but a proxy is spoken to by http://, https:// or "
            f"socks5h://: {remedy}"
        )
    place = f"{f'[{name}]' if ':' in name else name}:{port or _PORTS[scheme]}"
    credentials = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""
    return Proxy(f"{scheme}://{credentials}{place}", variable, f"{scheme}://{place}")


def _matches(entry: str, host: str, port: int, variable: str) -> bool:
    """Whether an entry of the list of exceptions means this host.

    `*` is every host; a name is that host and all below it; `*.name` is all below it; an address or a network (CIDR) is
    what it says. A port behind it limits any of these to that port. A scheme before it does not count.
    """
    entry = entry.rpartition("://")[2].rstrip("/")
    name, only_port = _split_port(entry)
    if only_port is not None and only_port != str(port):
        return False
    address = _address(_canonical(host))
    if "/" in name:
        try:
            network = ipaddress.ip_network(name.replace("[", "").replace("]", ""), strict=False)
        except ValueError:
            raise ConfigError(
                f"the environment variable {variable} has {shown(entry)}, which is no network such as 10.0.0.0/8 or "
                "fd00::/8: correct it, or take it out"
            ) from None
        return address is not None and address in network
    if (single := _address(name.strip("[]").lower())) is not None:
        return single == address
    name, host = _canonical(name), _canonical(host)
    if "*" in name:
        return fnmatchcase(host, name)
    name = name.lstrip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _split_port(entry: str) -> tuple[str, str | None]:
    """An entry without its port, and that; an IPv6 address has one only behind brackets."""
    name, colon, port = entry.rpartition(":")
    if colon and port.isascii() and port.isdigit() and (":" not in name or name.endswith("]")):
        return name, port
    return entry, None


def _canonical(host: str) -> str:
    """A host's name as it travels."""
    name = host.lower().rstrip(".")
    try:
        return name if name.isascii() else name.encode("idna").decode()
    except UnicodeError:
        return name


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped
