from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_gateway import answers, fake_gateway, gateways
from http_proxy import HttpProxy, http_proxy

from pipesd_agent import cli
from pipesd_agent.build import make_agent
from pipesd_agent.chat import TRUST, ChatError, chat
from pipesd_agent.config import AgentConfig
from pipesd_agent.link.dialing import dial
from pipesd_agent.link.failures import tls_trouble
from pipesd_agent.link.model_list import ModelList
from pipesd_agent.link.network import DIRECT, Network
from pipesd_agent.link.passthrough import PassthroughClient, of_endpoint
from pipesd_core.errors import ConfigError, Unavailable
from pipesd_core.protocol.messages import Endpoint

NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ws_proxy", "wss_proxy")
BROKEN = {
    "ALL_PROXY": "socks://127.0.0.1:7890",
    "all_proxy": "socks://127.0.0.1:7890",
    "HTTPS_PROXY": "http://127.0.0.1:port",
    "https_proxy": "htp://127.0.0.1:7890",
    "SSL_CERT_FILE": "/nonexistent/ca.pem",
    "SSL_CERT_DIR": "/nonexistent",
    "SSLKEYLOGFILE": "/nonexistent/keys",
}
"""Values that other programs leave in an environment, and with which ours ended in a traceback, or trusted nobody."""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    for name in (*NAMES, *map(str.upper, NAMES), "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"):
        monkeypatch.delenv(name, raising=False)

    def put(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1, said
    return said[0]


@pytest.mark.parametrize("name", BROKEN)
def test_no_program_starts_with_what_it_needs_and_cannot_use(
    environment: Callable[..., None], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    environment(**{name: BROKEN[name]})
    assert cli.main(["start", "--port", "0", "--gateway", "https://gateway.example"]) == 2
    said = one_line(capsys)
    assert said.startswith("pipesd-agent: the environment variable ")
    assert name in said
    assert BROKEN[name] in said
    assert "unset it" in said
    assert cli.main(["chat", "--url", "https://agent.example/v1"]) == 2
    said = one_line(capsys)
    assert said.startswith("pipesd-agent chat: the environment variable ")
    assert name in said


def test_no_credentials_are_shown(environment: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    environment(ALL_PROXY="socks5://somebody:secret@127.0.0.1:7890")
    assert cli.main(["start", "--port", "0", "--gateway", "http://gateway.example"]) == 2
    assert "secret" not in one_line(capsys)


async def test_what_is_not_needed_stops_nothing(environment: Callable[..., None]) -> None:
    """A gateway on loopback, without TLS: neither proxies nor authorities matter."""
    environment(**BROKEN, NO_PROXY="127.0.0.1,fd00::/8", no_proxy="127.0.0.1,fd00::/8")
    await make_agent(AgentConfig()).aclose()
    with pytest.raises(ChatError, match=r"no agent at http://127\.0\.0\.1:9/v1"):
        chat("http://127.0.0.1:9/v1", None, None, None)


def port_of(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


def body_of(text: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode()


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
async def test_link_model_list_and_passthrough_take_the_same_way(name: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(body_of('{"data": [{"id": "m"}]}' if head.startswith(b"GET") else '{"choices": []}'))
        writer.close()

    plain = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with (
        fake_gateway(answers) as gateway,
        http_proxy(int(gateway.url.split(":")[2].split("/")[0]), credentials="user:p%40ss") as to_socket,
        http_proxy(plain.sockets[0].getsockname()[1]) as to_http,
    ):
        there = gateways("http://gateway.example:8100")
        (one,) = there.in_request_order()

        def network(proxy: HttpProxy) -> Network:
            return Network({name: proxy.url}, [one.address.http, one.address.socket])

        to_socket.credentials = "user:p%2540ss"  # as it is written in a URL
        websocket = await dial(one.address, None, network(to_socket))
        await websocket.close()
        assert to_socket.asked == ["CONNECT gateway.example:8100 HTTP/1.1"]
        listed = ModelList(there, None, network(to_http))
        task = asyncio.create_task(listed.run())
        async with asyncio.timeout(5):
            while not listed.models:  # noqa: ASYNC110 - of another task
                await asyncio.sleep(0.01)
        task.cancel()
        asking = PassthroughClient(there, None, network(to_http))
        answer = await asking.request(of_endpoint(Endpoint.COMPLETIONS, b"{}"), "id")
        assert answer.body == b'{"choices": []}'
        await asking.aclose()
        assert [line.split()[1] for line in to_http.asked] == [
            "http://gateway.example:8100/v1/models",
            "http://gateway.example:8100/v1/completions",
        ]
    plain.close()


@pytest.mark.parametrize(
    ("refuses", "says"),
    [
        ("407 Proxy Authentication Required", r"it answered 407\): it wants a user and a password"),
        ("502 Bad Gateway", r"it answered 502"),
    ],
)
async def test_a_proxy_that_refuses_is_named(refuses: str, says: str) -> None:
    async with http_proxy(1, refuses=refuses) as proxy:
        (one,) = gateways("http://gateway.example:8100").in_request_order()
        with pytest.raises(Unavailable, match=rf"proxy {proxy.url} of the environment variable http_proxy.*{says}"):
            await dial(one.address, None, Network({"http_proxy": proxy.url}, [one.address.socket]))


async def test_a_proxy_that_is_not_there_is_named(unused_tcp_port: int) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}"
    there = gateways("http://gateway.example:8100")
    (one,) = there.in_request_order()
    network = Network({"http_proxy": url}, [one.address.http, one.address.socket])
    says = f"through the proxy {url} of the environment variable http_proxy: .*add the host to NO_PROXY"
    with pytest.raises(Unavailable, match=says):
        await dial(one.address, None, network)
    asking = PassthroughClient(there, None, network)
    with pytest.raises(Unavailable, match=says):
        await asking.request(of_endpoint(Endpoint.COMPLETIONS, b"{}"), "id")
    await asking.aclose()


async def test_nothing_is_read_from_the_environment_afterwards(
    environment: Callable[..., None], unused_tcp_port: int
) -> None:
    environment(all_proxy=f"http://127.0.0.1:{unused_tcp_port}", SSL_CERT_FILE="/nonexistent", no_proxy="a,fd00::/8")
    async with fake_gateway(answers) as gateway:
        (one,) = gateways(gateway.url).in_request_order()
        await (await dial(one.address, None)).close()
        async with DIRECT.http_client() as client:
            assert (await client.get(one.address.http)).status_code == 426, "it serves WebSockets only"
        with Network({}, [gateway.url]).blocking_http_client() as blocking:
            assert not blocking._mounts
            assert not blocking.trust_env


# TLS against none, and none against TLS.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(certificate, key) of 127.0.0.1, signed by nobody else."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    files = (folder / "cert.pem", folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-out", str(files[0]), "-keyout", str(files[1])], check=True, capture_output=True)
    return files


async def refused_by_all(url: str, network: Network) -> list[str]:
    """What the link, the passthrough and a person's chat say of a server that cannot be spoken to."""
    there = gateways(url)
    (one,) = there.in_request_order()
    said = []
    with pytest.raises(Unavailable) as refused:
        await dial(one.address, None, network)
    said.append(str(refused.value))
    asking = PassthroughClient(there, None, network)
    with pytest.raises(Unavailable) as refused:
        await asking.request(of_endpoint(Endpoint.COMPLETIONS, b"{}"), "id")
    said.append(str(refused.value))
    await asking.aclose()

    def talk() -> str:
        with network.blocking_http_client(base_url=one.address.http, timeout=5) as client:
            try:
                answer = client.get("/models")
            except httpx.HTTPError as error:
                return str(tls_trouble(error, one.address.http, "the agent", "--url", TRUST))
            return answer.text

    said.append(await asyncio.to_thread(talk))
    return said


async def test_http_against_https(certificate: tuple[Path, Path]) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    async with fake_gateway(answers, tls=tls) as gateway:
        place = gateway.url.split("/")[2]
        *agent, person = await refused_by_all(f"http://{place}", DIRECT)
        for said in agent:
            assert said.endswith(f"no HTTP answer came; if it serves with TLS, set gateway to https://{place}")
        assert person.endswith(f"if it serves with TLS, set --url to https://{place}")


NGINX = b"<html><head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>"


async def test_http_against_https_where_the_server_says_so() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\n\r\n" % len(NGINX) + NGINX)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        place = f"127.0.0.1:{port_of(server)}"
        *agent, _ = await refused_by_all(f"http://{place}", DIRECT)
        for said in agent:
            assert said.endswith(f"serves with TLS: set gateway to https://{place}")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", "does not speak TLS: set {} to http://{}, or"),
        (b"", "ended the TLS handshake: if it serves without TLS, set {} to http://{}"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "the TLS handshake with "),
    ],
    ids=["plain", "silent", "alert"],
)
async def test_https_against_http(answer: bytes, says: str, certificate: tuple[Path, Path]) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        place = f"127.0.0.1:{port_of(server)}"
        url = f"https://{place}"
        network = Network({}, [url], certificate[0])
        *agent, person = await refused_by_all(url, network)
        for said in agent:
            assert says.format("gateway", place) in said
        assert says.format("--url", place) in person


async def test_a_certificate_that_is_not_trusted(certificate: tuple[Path, Path]) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    async with fake_gateway(answers, tls=tls) as gateway:
        url = f"https://{gateway.url.split('/')[2]}"
        *agent, person = await refused_by_all(url, Network({}, [url]))
        for said in agent:
            assert "is not trusted (self-signed certificate): check the host's name, and set ca_file" in said
        assert "name that by the environment variable SSL_CERT_FILE if" in person
        (one,) = gateways(url).in_request_order()
        trusting = Network({"SSL_CERT_FILE": str(certificate[0])}, [url])
        await (await dial(one.address, None, trusting)).close()


async def test_a_redirect_is_not_followed_but_named() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 301 Moved\r\nlocation: https://elsewhere.example/\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        *agent, _ = await refused_by_all(f"http://127.0.0.1:{port_of(server)}", DIRECT)
        for said in agent:
            assert "sends on to 'https://elsewhere.example/': set gateway to the address that serves" in said


def test_a_proxy_that_is_spoken_to_over_tls_needs_authorities(certificate: tuple[Path, Path]) -> None:
    url = "ws://gateway.example:8100/v1/pipesd/ws"
    environ = {"http_proxy": "https://proxy.example", "SSL_CERT_FILE": str(certificate[0])}
    options: dict[str, Any] = Network(environ, [url]).websocket_options(url)
    assert options["proxy"] == "https://proxy.example:443"
    assert len(options["proxy_ssl"].get_ca_certs()) >= 1
    assert "ssl" not in options
    with pytest.raises(ConfigError, match=r"SSL_CERT_FILE"):
        Network(environ | {"SSL_CERT_FILE": "/nonexistent"}, [url])


async def test_sockets_have_their_options() -> None:
    seen: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(body_of("{}"))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{port_of(server)}"
        options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
        async with (
            Network({}, [url]).http_client(socket_options=options) as client,
            client.stream("GET", url) as answer,
        ):
            raw = answer.extensions["network_stream"].get_extra_info("socket")
            seen.append(raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
    assert seen == [1]
