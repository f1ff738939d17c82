"""RFC 9112 and RFC 9110, rule by rule, against both programs' real servers over raw sockets.

Each case is what a client sends, and what has to come back. Most hold by h11; those that did not are mended in
`service.request_head`, `service.content_coding` and `service.limits`.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from fake_decoder import FakeDecoder
from starlette.applications import Starlette

from pipesd_agent.api import app as agent_api
from pipesd_agent.build import make_agent
from pipesd_agent.config import AgentConfig
from pipesd_core.llamacpp.runtime.engine import EmbeddedEngine
from pipesd_core.service import http
from pipesd_core.service.content_coding import MAX_MEMBERS
from pipesd_core.service.hosts import names_of
from pipesd_core.service.lifecycle import Lifecycle
from pipesd_core.service.program import listen
from pipesd_core.service.server import Server
from pipesd_core.service.sockets import is_loopback
from pipesd_gateway import agents, api
from pipesd_gateway.limits import SessionLimits
from pipesd_gateway.quota import Quota

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "org/fake"
ALLOWED = "chat.example"
BODY = b'{"prompt":"hi","max_tokens":3,"seed":1}'
GZIPPED = gzip.compress(BODY)
SIZE = http.MAX_BODY_BYTES
BOMB = gzip.compress(bytes(SIZE + 1))


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> str:
        return str(json.loads(self.body)["error"]["message"])


@dataclass(frozen=True)
class Case:
    """rule: section, and what it says. status: of the answer. says: what the body has in it. has: headers, by pattern.

    closes: the connection must end with the answer.
    """

    rule: str
    sent: bytes
    status: int
    says: str = ""
    has: dict[str, str] = field(default_factory=dict)
    closes: bool = False


def get(target: str = "/v1/models", *headers: str, version: str = "1.1", method: str = "GET") -> bytes:
    """A request. No Host among the headers: that of this machine is added, but for one of HTTP/1.0."""
    lines = list(headers)
    if version != "1.0" and not any(line.lower().startswith("host") for line in lines):
        lines.insert(0, "Host: localhost:8101")
    return "\r\n".join([f"{method} {target} HTTP/{version}", *lines, "", ""]).encode("latin-1")


def post(*headers: str, body: bytes = BODY, target: str = "/v1/completions", version: str = "1.1") -> bytes:
    lines = list(headers)
    if not any(re.match("(?i)transfer-encoding|content-length", line) for line in lines):
        lines.append(f"Content-Length: {len(body)}")
    return get(target, *lines, version=version, method="POST") + body


def chunked(*chunks: bytes, extension: bytes = b"", trailer: bytes = b"") -> bytes:
    parts = [f"{len(chunk):x}".encode() + extension + b"\r\n" + chunk + b"\r\n" for chunk in chunks]
    return b"".join(parts) + b"0\r\n" + trailer + b"\r\n"


CASES = [
    # RFC 9112, 2: messages.
    Case("9112 2.2 a line may end in a bare LF", get().replace(b"\r\n", b"\n"), 200),
    Case("9112 2.2 empty lines before a request are ignored", b"\r\n\r\n" + get(), 200),
    Case("9112 2.2 so is one that an old client sends after its body", post() + b"\r\n", 200, "choices"),
    Case("9112 2.2 space between the first line and the headers", get().replace(b"\nHost", b"\n Host"), 400),
    Case("9112 2.3 a higher minor version is 1.1", get(version="1.2"), 200),
    Case("9110 15.6.6 another major version", get(version="2.0"), 505, "HTTP/2.0"),
    Case("9113 3.4 HTTP/2 by prior knowledge", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    # RFC 9112, 3: the first line, and Host.
    Case("9112 3 more than one space in the first line", get().replace(b"GET ", b"GET  "), 400),
    Case("9112 3 a first line without a version", get().replace(b" HTTP/1.1", b""), 400),
    Case("9112 3.2 a target that is neither path nor URL", get("v1/models"), 400, "'v1/models'"),
    Case("9112 3.2 a target with a fragment", get("/v1/models#x"), 400, "fragment"),
    Case("9112 3.2 no Host", b"GET /v1/models HTTP/1.1\r\n\r\n", 400, "Host"),
    Case("9112 3.2 no Host in a later 1.x", b"GET /v1/models HTTP/1.2\r\n\r\n", 400, "Host"),
    Case("9112 3.2 two Hosts", get("/v1/models", "Host: localhost", "Host: localhost"), 400, "Host"),
    Case("9112 3.2 two Hosts in HTTP/1.0", get("/health", "Host: a", "Host: b", version="1.0"), 400, "Host"),
    *(
        Case(f"9112 3.2 Host: {value}", get("/v1/models", f"Host: {value}"), 400, "no host name")
        for value in ("a b", "a/b", "a@localhost", "localhost:x", "[::1", "a,b:1:2", "http://localhost", "local\xe4")
    ),
    Case("9112 3.2 an empty Host is one", get("/v1/models", "Host:"), 200),
    Case("9112 3.3 HTTP/1.0 without Host", get("/health", version="1.0"), 200, closes=True),
    Case("9112 3.2.1 a query", get("/v1/models?x=1"), 200),
    Case("9112 3.2.2 absolute form", get("http://localhost:8101/v1/models"), 200, MODEL),
    Case("9112 3.2.2 absolute form in other letters, with a query", get("HTTP://LOCALHOST/health?x=/"), 200, "ok"),
    Case("9112 3.2.2 absolute form of HTTP/1.0", get("http://localhost/health", version="1.0"), 200),
    Case("9112 3.2.2 absolute form without a path", get("http://localhost"), 404),
    Case("9112 3.2.2 absolute form, POST", post(target="http://localhost/v1/completions"), 200, "choices"),
    Case("9112 3.2.2 Host is ignored then", get("http://localhost/v1/models", "Host: evil.example"), 200),
    Case("9112 3.2.2 the target's host counts", get("http://evil.example/v1/models", "Host: localhost"), 421),
    Case("9112 3.2.2 absolute form without Host", b"GET http://localhost/health HTTP/1.1\r\n\r\n", 400, "Host"),
    Case("9110 4.2.1 a URL without a host", get("http:///v1/models"), 400, "host name"),
    Case("9110 4.2.4 a URL with a user", get("http://u:p@localhost/v1/models"), 400, "host name"),
    Case("9110 7.4 https over a connection without TLS", get("https://localhost/v1/models"), 421, "scheme"),
    Case("9110 7.4 a scheme that is another server's", get("ftp://localhost/v1/models"), 421, "scheme"),
    Case("9112 3.2.3 CONNECT", get("localhost:443", method="CONNECT"), 405, "proxy", {"allow": "GET"}, closes=True),
    Case("9112 3.2.4 OPTIONS *", get("*", method="OPTIONS"), 204, has={"allow": "GET, HEAD, POST"}),
    Case("9112 3.2.4 the same by a proxy", get("http://localhost", method="OPTIONS"), 204, has={"allow": "GET"}),
    Case("9112 3.2.4 an asterisk for another method", get("*"), 400, "'*'"),
    # RFC 9112, 5: headers.
    Case("9112 5.1 space before the colon", get("/v1/models", "Host : localhost"), 400),
    Case("9112 5.2 a folded line counts as one", get("/v1/models", "X-A: b", " c"), 200),
    Case("9110 5.5 NUL in a value", get("/v1/models", "X-A: b\0c"), 400),
    Case("9110 5.5 a bare CR in a value", get("/v1/models", "X-A: b\rc"), 400),
    # RFC 9112, 6: bodies.
    Case(
        "9112 6.1 Transfer-Encoding and Content-Length",
        post("Transfer-Encoding: chunked", "Content-Length: 5", body=chunked(BODY)),
        400,
        "Content-Length",
        closes=True,
    ),
    Case("9112 6.1 in HTTP/1.0", post("Transfer-Encoding: chunked", version="1.0"), 400, "HTTP/1.0", closes=True),
    *(
        Case(f"9112 6.1 Transfer-Encoding: {coding}", post(f"Transfer-Encoding: {coding}"), 501, closes=True)
        for coding in ("gzip", "gzip, chunked", "identity", "chunked, chunked", "xchunked")
    ),
    Case("9112 6.1 codings in any letters", post("Transfer-Encoding: Chunked", body=chunked(BODY)), 200),
    *(
        Case(f"9112 6.3 Content-Length: {length}", post(f"Content-Length: {length}"), 400, closes=True)
        for length in ("x", "-1", "+5", "0x10", "5, 6", "1 2", "")
    ),
    Case("9112 6.3 two lengths", post("Content-Length: 39", "Content-Length: 40"), 400, closes=True),
    # RFC 9112, 7: chunks.
    Case("9112 7.1 chunks", post("Transfer-Encoding: chunked", body=chunked(BODY[:9], BODY[9:])), 200, "choices"),
    Case("9112 7.1.1 extensions", post("Transfer-Encoding: chunked", body=chunked(BODY, extension=b';a="b"')), 200),
    Case("9112 7.1.2 trailers", post("Transfer-Encoding: chunked", body=chunked(BODY, trailer=b"X-A: b\r\n")), 200),
    Case("9112 7.1 no size", post("Transfer-Encoding: chunked", body=b"x\r\n" + BODY), 400, closes=True),
    Case("9112 7.1 a size of many digits", post("Transfer-Encoding: chunked", body=b"f" * 30 + b"\r\n"), 400),
    Case("9112 7.1 a chunk longer than it says", post("Transfer-Encoding: chunked", body=b"1\r\nab\r\n"), 400),
    # RFC 9112, 9: connections.
    Case("9112 9.6 Connection: close", get("/health", "Connection: close"), 200, closes=True),
    Case(
        "9110 7.8 an upgrade that is not offered is ignored",
        post("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
        200,
        "choices",
    ),
    # RFC 9110.
    Case("9110 8.4 gzip", post("Content-Encoding: gzip", body=GZIPPED), 200, "choices"),
    Case("9110 8.4.1.3 x-gzip, in any letters", post("Content-Encoding: X-GZip", body=GZIPPED), 200, "choices"),
    Case("9110 8.4 identity", post("Content-Encoding: identity"), 200, "choices"),
    Case(
        "9110 8.4 gzip in chunks",
        post("Content-Encoding: gzip", "Transfer-Encoding: chunked", body=chunked(*(bytes([b]) for b in GZIPPED))),
        200,
        "choices",
    ),
    Case(
        "RFC 1952 2.2 gzip in several members",
        post("Content-Encoding: gzip", body=gzip.compress(BODY[:9]) + gzip.compress(BODY[9:])),
        200,
    ),
    Case(
        "gzip in too many members",
        post("Content-Encoding: gzip", body=gzip.compress(b" ") * (MAX_MEMBERS + 1)),
        400,
        f"{MAX_MEMBERS} members",
    ),
    *(
        Case(
            f"9110 15.5.16 Content-Encoding: {coding}",
            post(f"Content-Encoding: {coding}", body=GZIPPED),
            415,
            coding,
            {"accept-encoding": "gzip"},
        )
        for coding in ("br", "deflate", "zstd", "gzip, gzip", "gzip, br")
    ),
    Case("no gzip under that name", post("Content-Encoding: gzip"), 400, "not gzip"),
    Case("gzip that is cut off", post("Content-Encoding: gzip", body=GZIPPED[:-3]), 400, "cut off"),
    Case("gzip with something after it", post("Content-Encoding: gzip", body=GZIPPED + b"xyz"), 400, "not gzip"),
    Case("gzip that grows beyond the limit", post("Content-Encoding: gzip", body=BOMB), 413, f"{SIZE} bytes"),
    Case("9110 8.3 JSON under another type", post("Content-Type: text/plain"), 200, "choices"),
    Case(
        "the same from a web page",
        post("Content-Type: text/plain", "Origin: https://evil.example"),
        403,
        "--cors-origin",
    ),
    Case("9110 9.1 a method that a route does not have", get(method="DELETE"), 405, has={"allow": "GET"}),
    Case("9110 9.1 an unknown method", get(method="BREW"), 405, has={"allow": "GET"}),
    Case("9110 9.3.7 OPTIONS of a route", get(method="OPTIONS"), 405, has={"allow": "GET"}),
    Case("9110 9.3.8 TRACE", get(method="TRACE"), 405, has={"allow": "GET"}),
    Case("9110 10.1.1 another expectation", post("Expect: 200-ok"), 417, "'200-ok'"),
    Case("9110 10.1.1 an expectation of HTTP/1.0", post("Expect: 100-continue", version="1.0"), 200, "choices"),
    # Host names: RFC 9110, 7.4, and DNS rebinding.
    *(
        Case(f"this machine by {host}", get("/health", f"Host: {host}"), 200)
        for host in (
            "localhost",
            "LocalHost:1",
            "localhost.",
            "app.localhost:3",
            "127.0.0.1",
            "127.8.8.8:80",
            "[::1]:8101",
            "[0:0:0:0:0:0:0:1]",
            ALLOWED,
            f"{ALLOWED.upper()}:80",
        )
    ),
    *(
        Case(f"another name: {host}", get(path, f"Host: {host}"), 421, "--allowed-host")
        for host, path in (
            ("evil.example", "/health"),
            ("evil.example:8101", "/v1/models"),
            ("a.chat.example", "/metrics"),
            ("localhost.evil.example", "/ready"),
            ("127.0.0.1.evil.example", "/openapi.json"),
            ("[fd00::1]", "/health"),
            ("192.168.1.1", "/v1/models/x"),
            ("notlocalhost", "/nowhere"),
            ("128.0.0.1", "/health"),
        )
    ),
    Case("another name, POST", post("Host: evil.example"), 421, "--allowed-host"),
    # One model.
    Case("a model by its id", get("/v1/models/org/fake"), 200, '"max_model_len":'),
    Case("a model by its escaped id", get("/v1/models/org%2Ffake"), 200, '"id":"org/fake"'),
    Case("no such model", get("/v1/models/org%2Fother"), 404, "The model 'org/other' does not exist"),
]


@asynccontextmanager
async def served(make: Any) -> AsyncIterator[tuple[int, Starlette]]:
    """A program's server, as its command line makes it; `make` gives the app, and what ends its requests."""
    listener = listen("127.0.0.1", 0)
    app, on_stop = make(names_of((ALLOWED,), loopback=is_loopback(listener)))
    server = Server(app, on_stop, log_level="warning")
    serving = asyncio.create_task(server.serve([listener]))
    try:
        async with asyncio.timeout(60):
            while not (server.started and server.server_state.default_headers):  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(0.01)
        yield listener.getsockname()[1], app
    finally:
        server.should_exit = True
        await asyncio.wait_for(serving, 60)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ports() -> AsyncIterator[dict[str, int]]:
    engine = EmbeddedEngine(FakeDecoder(b"abcdef"), name=MODEL)

    def gateway(hosts: Any) -> Any:
        app = api.create_app(engine, hosts=hosts)
        agents.attach(app, engine, SessionLimits(), lambda _: None, Quota(8), Lifecycle())
        return app, engine.aclose

    async with AsyncExitStack() as stack:
        of_gateway, _ = await stack.enter_async_context(served(gateway))
        agent = make_agent(AgentConfig(gateway=f"http://127.0.0.1:{of_gateway}"))
        of_agent, _ = await stack.enter_async_context(
            served(lambda hosts: (agent_api.create_app(agent, hosts=hosts), agent.aclose))
        )
        async with asyncio.timeout(60):
            while not (agent.models and agent.link.connected):  # noqa: ASYNC110 - no event for both
                await asyncio.sleep(0.01)
        yield {"gateway": of_gateway, "agent": of_agent}


async def answer_of(reader: asyncio.StreamReader, *, head: bool = False) -> Answer:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    status = int(first.split(" ")[1])
    if head or status in (100, 204):
        return Answer(status, headers, b"")
    if "content-length" in headers:
        return Answer(status, headers, await reader.readexactly(int(headers["content-length"])))
    return Answer(status, headers, await reader.read())


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(60):
            yield reader, writer
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule)
@pytest.mark.parametrize("program", ["gateway", "agent"])
async def test_rule(program: str, case: Case, ports: dict[str, int]) -> None:
    async with connected(ports[program]) as (reader, writer):
        writer.write(case.sent)
        answer = await answer_of(reader)
        assert answer.status == case.status, answer
        assert case.says in (answer.message if answer.status >= 400 else answer.body.decode()), answer
        assert "date" in answer.headers, "9110 6.6.1: in all answers of a server with a clock"
        for name, pattern in case.has.items():
            assert re.search(pattern, answer.headers[name]), answer
        if answer.status >= 400:
            assert answer.headers["content-type"] == "application/json"
            assert set(json.loads(answer.body)["error"]) == {"message", "type", "param", "code"}
        if case.closes:
            assert await reader.read() == b""
        elif answer.headers.get("connection") != "close":  # 9112 9.3: the next request is read where it begins
            writer.write(get("/health"))
            assert (await answer_of(reader)).status == 200


@pytest.mark.parametrize(
    "path", ["/health", "/ready", "/metrics", "/openapi.json", "/v1/models", "/v1/models/org/fake"]
)
@pytest.mark.parametrize("program", ["gateway", "agent"])
async def test_head_is_get_without_its_body(program: str, path: str, ports: dict[str, int]) -> None:
    """RFC 9110, 9.3.2."""
    async with connected(ports[program]) as (reader, writer):
        writer.write(get(path) + get(path, method="HEAD") + get(path))  # 9112 9.3.2: answered in order
        before = await answer_of(reader)
        head = await answer_of(reader, head=True)
        after = await answer_of(reader)
        assert before.status == head.status == after.status == 200
        assert head.headers["content-type"] == before.headers["content-type"]
        assert int(head.headers["content-length"]) > 0
        if path not in ("/health", "/metrics"):  # whose figures move
            assert head.headers["content-length"] == before.headers["content-length"]


@pytest.mark.parametrize("program", ["gateway", "agent"])
async def test_a_refused_head_has_no_body(program: str, ports: dict[str, int]) -> None:
    async with connected(ports[program]) as (reader, writer):
        writer.write(get("ftp://localhost/", method="HEAD"))
        assert (await answer_of(reader, head=True)).status == 421
        assert await reader.read() == b""


@pytest.mark.parametrize("program", ["gateway", "agent"])
async def test_expect_100_continue(program: str, ports: dict[str, int]) -> None:
    """RFC 9110, 10.1.1: the client waits with its body until it is told to go on."""
    async with connected(ports[program]) as (reader, writer):
        writer.write(post("Expect: 100-Continue")[: -len(BODY)])
        assert (await answer_of(reader)).status == 100
        writer.write(BODY)
        assert (await answer_of(reader)).status == 200


@pytest.mark.parametrize("program", ["gateway", "agent"])
async def test_a_stream_to_a_client_of_http_1_0(program: str, ports: dict[str, int]) -> None:
    """RFC 9112, 6.1 and 7: no chunks; its end is that of the connection."""
    body = json.dumps({"prompt": "hi", "max_tokens": 3, "stream": True}).encode()
    async with connected(ports[program]) as (reader, writer):
        writer.write(post(version="1.0", body=body))
        answer = await answer_of(reader)
        assert "transfer-encoding" not in answer.headers
        assert answer.body.startswith(b"data: ")
        assert answer.body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("program", ["gateway", "agent"])
@pytest.mark.parametrize("host", ["localhost", "evil.example"])
async def test_web_sockets_ask_for_the_host_too(host: str, program: str, ports: dict[str, int]) -> None:
    asked = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: x")
    async with connected(ports[program]) as (reader, writer):
        writer.write(get("/nowhere", f"Host: {host}", *asked, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="))
        assert (await answer_of(reader)).status == (421 if host == "evil.example" else 403)


@pytest.mark.parametrize("program", ["gateway", "agent"])
async def test_a_gzip_bomb_takes_no_more_than_the_limit(program: str, ports: dict[str, int]) -> None:
    """It is decoded as it comes: the answer is there before the body is."""
    bomb = gzip.compress(bytes(64 * SIZE))
    async with connected(ports[program]) as (reader, writer):
        writer.write(post("Content-Encoding: gzip", body=bomb)[: -len(bomb) // 2])
        assert (await answer_of(reader)).status == 413
