from __future__ import annotations

import pytest

from pipesd_core.errors import ConfigError
from pipesd_core.service import proxies
from pipesd_core.service.proxies import Proxies

AWAY = "http://gateway.example:8100/v1"


def of(url: str = AWAY, **environ: str) -> str | None:
    proxy = Proxies(environ).of(url)
    return None if proxy is None else proxy.url


@pytest.mark.parametrize(
    ("environ", "url", "proxy"),
    [
        ({}, AWAY, None),
        ({"HTTP_PROXY": "http://a:1"}, AWAY, "http://a:1"),
        ({"http_proxy": "http://a:1", "HTTP_PROXY": "http://b:1"}, AWAY, "http://a:1"),
        ({"http_proxy": "", "HTTP_PROXY": "http://b:1"}, AWAY, None),
        ({"Http_Proxy": "http://a:1"}, AWAY, None),
        ({"HTTP_PROXY": "http://a:1", "REQUEST_METHOD": "GET"}, AWAY, None),
        ({"HTTP_PROXY": "http://a:1", "ALL_PROXY": "http://b:1"}, AWAY, "http://a:1"),
        ({"HTTPS_PROXY": "http://a:1"}, AWAY, None),
        ({"HTTPS_PROXY": "http://a:1", "ALL_PROXY": "http://b:1"}, AWAY, "http://b:1"),
        ({"HTTPS_PROXY": "http://a:1", "HTTP_PROXY": "http://b:1"}, "https://gateway.example", "http://a:1"),
        ({"HTTPS_PROXY": "http://a:1", "WSS_PROXY": "http://b:1"}, "wss://gateway.example", "http://b:1"),
        ({"HTTPS_PROXY": "http://a:1", "HTTP_PROXY": "http://b:1"}, "wss://gateway.example", "http://a:1"),
        ({"HTTPS_PROXY": "http://a:1", "HTTP_PROXY": "http://b:1"}, "ws://gateway.example", "http://b:1"),
        ({"http_proxy": "a"}, AWAY, "http://a:80"),
        ({"http_proxy": " a:3128/ "}, AWAY, "http://a:3128"),
        ({"http_proxy": "https://a"}, AWAY, "https://a:443"),
        ({"http_proxy": "http://[fd00::1]:8"}, AWAY, "http://[fd00::1]:8"),
        ({"http_proxy": "http://u%40x:p%2Fw@a:1"}, AWAY, "http://u%40x:p%2Fw@a:1"),
        ({"http_proxy": "http://u@a:1"}, AWAY, "http://u:@a:1"),
        ({"http_proxy": "http://a:1"}, "no address", None),
        ({"http_proxy": "http://a:1"}, "http://[", None),
        ({"http_proxy": "http://a:1"}, "ftp://gateway.example", None),
    ],
)
def test_which_proxy(environ: dict[str, str], url: str, proxy: str | None) -> None:
    assert of(url, **environ) == proxy


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8100",
        "ws://127.9.9.9/v1/pipesd/ws",
        "https://localhost",
        "http://LocalHost.:80",
        "http://agent.localhost",
        "http://[::1]:8100",
        "http://[::ffff:127.0.0.1]",
        "http://0.0.0.0:8100",
    ],
)
def test_loopback_never_goes_through_a_proxy_whatever_the_environment_says(url: str) -> None:
    named = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "wss_proxy"), "socks://nobody")
    assert of(url, **named, no_proxy="fd00::/999") is None


@pytest.mark.parametrize(
    ("exceptions", "url", "direct"),
    [
        ("*", AWAY, True),
        ("127.0.0.1,fd00::/8", AWAY, False),
        ("127.0.0.1,fd00::/8", "http://[fd12::1]:8100", True),
        ("127.0.0.1,fd00::/8", "http://[fe80::1]:8100", False),
        ("10.0.0.0/8", "http://10.1.2.3", True),
        ("10.0.0.1/8", "http://10.1.2.3", True),
        ("10.0.0.0/8", "http://11.1.2.3", False),
        ("10.0.0.0/8", "http://10.example", False),
        ("10.0.0.0/8", "http://[fd00::1]", False),
        ("10.1.2.3", "http://10.1.2.3:8100", True),
        ("::ffff:10.1.2.3", "http://10.1.2.3:8100", True),
        ("fd00:0::1", "http://[fd00::1]", True),
        ("[fd00::1]:80", "http://[fd00::1]", True),
        ("[fd00::1]:81", "http://[fd00::1]", False),
        ("[fd00::]/8", "http://[fd00::1]", True),
        ("gateway.example", AWAY, True),
        ("GATEWAY.example.", AWAY, True),
        ("example", AWAY, True),
        (".example", AWAY, True),
        ("*.example", AWAY, True),
        ("*.gateway.example", AWAY, False),
        ("way.example", AWAY, False),
        ("192.168.*", "http://192.168.7.7", True),
        ("gateway.example:8100", AWAY, True),
        ("gateway.example:80", AWAY, False),
        ("gateway.example:443", "wss://gateway.example/v1/pipesd/ws", True),
        ("http://gateway.example/", AWAY, True),
        ("other , gateway.example", AWAY, True),
        ("other gateway.example", AWAY, True),
        (" ,, ", AWAY, False),
        ("bücher.example", "http://xn--bcher-kva.example", True),
        ("xn--bcher-kva.example", "http://bücher.example", True),
        ("fd00::/999 gateway.example", AWAY, True),
    ],
)
def test_exceptions(exceptions: str, url: str, direct: bool) -> None:
    proxy = of(url, all_proxy="http://p:1", no_proxy=exceptions)
    assert proxy == (None if direct else "http://p:1")
    assert of(url, ALL_PROXY="http://p:1", NO_PROXY=exceptions) == proxy


@pytest.mark.parametrize(
    "value",
    [
        "http://",
        "http://:1",
        "http://a:99999",
        "http://a:x",
        "http://a:0",
        "http://a/path",
        "http://a?q",
        "http://a b",
        "http://[fd00::1",
        "http://u:%ff@a",
        "http://a\nb",
        "ftp://a",
        "socks://a:1",
        "socks4://a:1",
    ],
)
def test_what_cannot_be_used_is_named_and_where_it_is_needed_only(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^the environment variable ALL_PROXY .*gateway\.example to NO_PROXY$"):
        of(ALL_PROXY=value)
    assert of(ALL_PROXY=value, HTTP_PROXY="http://a:1") == "http://a:1"
    assert of(ALL_PROXY=value, NO_PROXY="example") is None
    assert of("http://127.0.0.1:8101", ALL_PROXY=value) is None


def test_an_exception_that_is_no_network_is_named_where_it_matters() -> None:
    with pytest.raises(ConfigError, match=r"variable no_proxy has 'fd00::/999', which is no network"):
        of(all_proxy="http://p:1", no_proxy="10.0.0.1,fd00::/999")
    assert of(no_proxy="fd00::/999") is None


@pytest.mark.parametrize("value", ["socks5://u:secret@a:1", "http://u:secret@a:x", "u:secret@a:x", "x://secret@@a b"])
def test_no_message_has_credentials(value: str) -> None:
    with pytest.raises(ConfigError) as told:
        of(ALL_PROXY=value)
    assert "secret" not in str(told.value)
    assert "***@" in str(told.value)
    shown = Proxies({"ALL_PROXY": "http://u:secret@a"}).of(AWAY)
    assert shown is not None
    assert shown.shown == "http://a:80"


def test_socks_where_both_libraries_can_speak_it(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"python_socks"}
    monkeypatch.setattr(proxies, "find_spec", lambda name: name if name in installed else None)
    with pytest.raises(ConfigError, match=r"can be used as socks5h://, with socksio installed"):
        of(all_proxy="socks5://a")
    installed.add("socksio")
    assert of(all_proxy="socks5://a") == "socks5://a:1080"
    assert of(all_proxy="socks5h://u:p@a:7") == "socks5h://u:p@a:7"
    with pytest.raises(ConfigError, match=r"can be used as socks5h://: name"):
        of(all_proxy="socks://a")
