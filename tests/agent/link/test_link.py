"""The link against gateways that refuse, lie, freeze and vanish. Every wait of a client has an end with a reason."""

from __future__ import annotations

import asyncio
import http
import itertools
import logging
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_gateway import (
    FakeGateway,
    answer,
    answers,
    fake_gateway,
    forgets,
    gateways,
    is_silent,
    opened,
    running_link,
    say,
    settings,
    verdict,
)
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from pipesd_agent.config import AgentConfig
from pipesd_agent.link import circuit_breaker, dialing, requests
from pipesd_agent.link import connection as connecting
from pipesd_agent.link import link as link_module
from pipesd_agent.link.gateways import Declined
from pipesd_agent.link.link import Link
from pipesd_agent.session.remote_error import RemoteError
from pipesd_agent.session.stream import RequestStream
from pipesd_core.errors import ApiError, Overloaded, ShuttingDown, Unauthorized, Unavailable
from pipesd_core.protocol.messages import (
    SUBPROTOCOL,
    Close,
    Draining,
    End,
    Endpoint,
    Event,
    Failed,
    Open,
    Rejected,
    Resume,
    encode,
)

BODY = b"{}"


async def ask(link: Link, body: bytes = BODY) -> RequestStream:
    async with asyncio.timeout(60):
        return await link.request(Endpoint.COMPLETIONS, body, "id")


async def payloads(stream: RequestStream) -> list[bytes]:
    got = []
    async with asyncio.timeout(60):
        await stream.opened()
        while (payload := await stream.next()) is not None:
            got.append(payload)
            stream.taken()
    return got


async def eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110 - of another task, which tells nobody
            await asyncio.sleep(0.01)


async def test_requests_are_answered_over_one_connection() -> None:
    async with fake_gateway(answers) as gateway, running_link(gateway.url) as link:
        streams = await asyncio.gather(*(ask(link) for _ in range(8)))
        assert [await payloads(stream) for stream in streams] == [[b"{}"]] * 8
        assert link.state == "connected"
        assert len(gateway.connections) == 1
        # Channels are free again.
        assert await payloads(await ask(link)) == [b"{}"]
        assert gateway.received[-1].channel == 0


# No connection.


async def refused_with(response: tuple[int, bytes]) -> ApiError:
    def refuse(connection: ServerConnection, _: Request) -> Response:
        refusal = connection.respond(http.HTTPStatus(response[0]), "")
        refusal.body = response[1]
        del refusal.headers["content-length"]
        refusal.headers["content-length"] = str(len(response[1]))
        return refusal

    async def nobody(_: ServerConnection) -> None:
        raise AssertionError

    async with serve(nobody, "127.0.0.1", 0, process_request=refuse) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with running_link(f"ws://127.0.0.1:{port}/v1/pipesd/ws") as link:
            with pytest.raises(ApiError) as refused:
                await ask(link)
            assert link.state == refused.value.message
            return refused.value


@pytest.mark.parametrize(
    ("response", "kind", "message"),
    [
        ((401, b'{"error": {"message": "no API key"}}'), Unauthorized, "refuses this agent's key (no API key)"),
        ((401, b"<html>"), Unauthorized, "refuses this agent's key (no reason given)"),
        ((403, b""), Unavailable, "check the setting gateway"),
        ((404, b"Not Found"), Unavailable, "(it answered 404)"),
        ((503, b'{"error": {"message": "shutting down"}}'), Declined, "answered 503: shutting down"),
        ((502, b"<html>"), Declined, "answered 502: no server is there"),
    ],
)
async def test_a_refused_handshake_says_why(response: tuple[int, bytes], kind: type[ApiError], message: str) -> None:
    error = await refused_with(response)
    assert type(error) is kind
    assert message in error.message


@pytest.mark.parametrize("offered", [[], ["pipesd.v2"]])
async def test_a_server_of_another_protocol(offered: list[Any]) -> None:
    async with fake_gateway(is_silent, offered) as gateway, running_link(gateway.url) as link:
        with pytest.raises(Unavailable, match=r"does not speak pipesd\.v1|there is no PipeSD gateway"):
            await ask(link)


async def serve_tcp(script: bytes | None) -> asyncio.Server:
    """Says these bytes to whoever connects, or nothing."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if script is None:
            await reader.read()
        else:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(script)
            await writer.drain()
        writer.close()

    return await asyncio.start_server(handle, "127.0.0.1", 0)


@pytest.mark.parametrize("script", [b"", b"220 smtp ready\r\n", b"\x00" * 5000, b"HTTP/1.1 200 OK\r\n\r\n"])
async def test_a_server_that_is_no_web_server(script: bytes) -> None:
    async with await serve_tcp(script) as server:
        port = server.sockets[0].getsockname()[1]
        async with running_link(f"ws://127.0.0.1:{port}/") as link:
            with pytest.raises(Unavailable, match=r"cannot reach the gateway|no PipeSD gateway"):
                await ask(link)


async def test_a_server_that_accepts_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialing, "CONNECT_TIMEOUT_S", 0.2)
    async with await serve_tcp(None) as server:
        port = server.sockets[0].getsockname()[1]
        async with running_link(f"ws://127.0.0.1:{port}/") as link:
            with pytest.raises(Unavailable, match="does not answer within"):
                await ask(link)


async def test_a_request_that_waits_for_a_connection_is_told_that_the_agent_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def dial(*_: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr("pipesd_agent.link.link.dial", dial)
    async with running_link("ws://127.0.0.1:1/") as link:
        asked = asyncio.create_task(ask(link))
        await asyncio.sleep(0)
    for request in (asked, ask(link)):
        with pytest.raises(ShuttingDown):
            await request


async def test_a_message_waits_until_the_link_has_room() -> None:
    heard: list[float] = []

    async def listening(gateway: FakeGateway, connection: ServerConnection) -> None:
        message = await gateway.read(connection)
        heard.append(time.monotonic())
        await say(connection, *answer(message.channel))
        await gateway.read_all(connection)

    room = time.monotonic() + 0.4
    async with fake_gateway(listening) as gateway, running_link(gateway.url, room_at=lambda: room) as link:
        assert await payloads(await ask(link)) == [b"{}"]
    assert heard[0] >= room


async def test_nobody_listens_until_later(unused_tcp_port: int) -> None:
    async with running_link(f"ws://127.0.0.1:{unused_tcp_port}/v1/pipesd/ws") as link:
        with pytest.raises(Unavailable, match="cannot reach the gateway"):
            await ask(link)
        async with fake_gateway(answers, port=unused_tcp_port):
            assert await payloads(await ask(link)) == [b"{}"]


async def test_attempts_back_off_and_a_request_does_not_wait_for_them(
    monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    attempts: list[float] = []

    def counting(*args: Any, **kwargs: Any) -> Any:
        attempts.append(time.monotonic())
        return connect(*args, **kwargs)

    monkeypatch.setattr("pipesd_agent.link.dialing.connect", counting)
    monkeypatch.setattr(circuit_breaker, "BACKOFF_FIRST_S", 0.05)
    monkeypatch.setattr(link_module, "BACKOFF_LIMIT_S", 0.2)
    monkeypatch.setattr("random.uniform", lambda _, most: most)
    async with running_link(f"ws://127.0.0.1:{unused_tcp_port}/") as link:
        await eventually(lambda: len(attempts) > 5)
        gaps = [later - earlier for earlier, later in itertools.pairwise(attempts)]
        for gap, least in zip(gaps, [0.05, 0.1, 0.2, 0.2, 0.2], strict=False):
            assert gap > 0.9 * least
        monkeypatch.setattr(circuit_breaker, "BACKOFF_FIRST_S", 60.0)
        monkeypatch.setattr(link_module, "BACKOFF_LIMIT_S", 60.0)
        await eventually(lambda: link.gateways.next_attempt_in(time.monotonic()) > 40)
        began = time.monotonic()
        with pytest.raises(Unavailable):
            await ask(link)
        assert time.monotonic() - began < 30


async def test_a_bug_in_connecting_is_logged_and_survived(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:

    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("pipesd_agent.link.dialing.connect", broken)
    async with fake_gateway(answers) as gateway, running_link(gateway.url) as link:
        with pytest.raises(Unavailable, match="ZeroDivisionError"):
            await ask(link)
        assert "the attempt to connect failed" in caplog.text
        monkeypatch.setattr("pipesd_agent.link.dialing.connect", connect)
        assert await payloads(await ask(link)) == [b"{}"]


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """(certificate, key) of 127.0.0.1, signed by nobody else."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    names = ("-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1")
    files = (tmp_path / "cert.pem", tmp_path / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    command += ["-out", str(files[0]), "-keyout", str(files[1])]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return files


async def test_a_secure_gateway(certificate: tuple[Path, Path]) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*certificate)
    async with fake_gateway(answers, tls=server) as gateway:
        config = AgentConfig(gateway=gateway.url, ca_file=certificate[0])
        assert config.addresses[0].socket == gateway.url
        async with running_link(gateway.url, network=config.network({})) as link:
            assert await payloads(await ask(link)) == [b"{}"]
        async with running_link(gateway.url, network=AgentConfig(gateway=gateway.url).network({})) as link:
            with pytest.raises(Unavailable, match=r"is not trusted \(self-signed certificate.*set ca_file"):
                await ask(link)
        async with running_link(gateway.url.replace("wss", "ws")) as link:
            with pytest.raises(
                Unavailable, match="no HTTP answer came; if it serves with TLS, set gateway to https://127"
            ):
                await ask(link)


# A connection that fails.


def says(*frames: bytes | str) -> Callable[[FakeGateway, ServerConnection], Any]:
    async def script(gateway: FakeGateway, connection: ServerConnection) -> None:
        await gateway.read(connection)
        for frame in frames:
            await connection.send(frame)
        await gateway.read_all(connection)

    return script


@pytest.mark.parametrize(
    "frame",
    [b"", b"\xff", b"\x93\x01\x02\x03", "text", bytes(5000), encode(Event(9, 1, 1, b"{}"))],
    ids=["empty", "no msgpack", "of an edge", "text", "zeros", "channel not open"],
)
async def test_frames_that_make_no_sense_end_the_connection(frame: bytes | str) -> None:
    async with fake_gateway(says(frame)) as gateway, running_link(gateway.url) as link:
        with pytest.raises(Unavailable, match="do not understand each other"):
            await payloads(await ask(link))


async def test_what_a_gateway_rejects_is_passed_on() -> None:
    rejected = encode(Rejected("unknown_version", "install matching versions"))
    async with fake_gateway(says(rejected)) as gateway, running_link(gateway.url) as link:
        with pytest.raises(Unavailable, match="install matching versions"):
            await payloads(await ask(link))


async def test_a_session_that_breaks_the_protocol_does_not_harm_the_others() -> None:
    async def script(gateway: FakeGateway, connection: ServerConnection) -> None:
        first, second = await gateway.read(connection), await gateway.read(connection)
        await say(connection, opened(first.channel), opened(first.channel), opened(second.channel))
        await gateway.read_all(connection)

    async with fake_gateway(script) as gateway, running_link(gateway.url) as link:
        bad, good = await ask(link), await ask(link)
        with pytest.raises(Unavailable, match="opened a session twice"):
            await payloads(bad)
        assert (await good.opened()).model == "fake"
        await eventually(lambda: Close(bad.session.channel) in gateway.received)
        assert link.connected


async def test_a_gateway_that_accepts_and_goes_silent() -> None:
    async with fake_gateway(is_silent) as gateway, running_link(gateway.url, silence_timeout_s=0.2) as link:
        stream = await ask(link)
        with pytest.raises(Unavailable, match=r"silent for 0\.2 s"):
            await payloads(stream)
        await eventually(lambda: Close(stream.session.channel) in gateway.received)


async def freezes(gateway: FakeGateway, connection: ServerConnection) -> None:
    """Opens one session, then reads nothing more, pings neither."""
    message = await gateway.read(connection)
    await say(connection, opened(message.channel))
    connection.transport.pause_reading()
    await connection.wait_closed()


async def test_a_frozen_gateway_is_noticed_by_its_pongs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialing, "PING_INTERVAL_S", 0.2)
    monkeypatch.setattr(dialing, "PING_TIMEOUT_S", 0.2)
    monkeypatch.setattr(connecting, "CLOSE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(dialing, "CLOSE_TIMEOUT_S", 0.1)
    async with fake_gateway(freezes) as gateway, running_link(gateway.url) as link:
        stream = await ask(link)
        with pytest.raises(Unavailable, match="link to the gateway was lost"):
            await payloads(stream)
        gateway.connections[0].transport.abort()


async def test_a_frozen_gateway_is_noticed_with_a_full_buffer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pings wait behind what the socket does not take, so that they never time out."""
    monkeypatch.setattr(connecting, "SEND_TIMEOUT_S", 0.4)
    monkeypatch.setattr(dialing, "PING_INTERVAL_S", 0.1)
    monkeypatch.setattr(dialing, "PING_TIMEOUT_S", 30.0)
    monkeypatch.setattr(connecting, "CLOSE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(dialing, "CLOSE_TIMEOUT_S", 0.1)
    async with fake_gateway(freezes) as gateway, running_link(gateway.url) as link:
        first = await ask(link)
        await first.opened()
        large = [await ask(link, b"x" * 4_000_000) for _ in range(4)]
        for stream in (first, *large):
            with pytest.raises(Unavailable, match="link to the gateway was lost"):
                await payloads(stream)
        await eventually(lambda: not link.connected)
        gateway.connections[0].transport.abort()


async def test_a_slow_but_living_link_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long message may take many times the patience with one fragment."""
    monkeypatch.setattr(connecting, "SEND_TIMEOUT_S", 0.5)

    async def slow(gateway: FakeGateway, connection: ServerConnection) -> None:
        raw = connection.transport
        reading = asyncio.create_task(answers(gateway, connection))
        for _ in range(15):
            raw.pause_reading()
            await asyncio.sleep(0.1)
            raw.resume_reading()
            await asyncio.sleep(0.001)
        await reading

    async with fake_gateway(slow) as gateway, running_link(gateway.url) as link:
        body = bytes(3_900_000)
        assert await payloads(await ask(link, body)) == [b"{}"]
        (message,) = gateway.received
        assert isinstance(message, Open)
        assert message.body == body


async def test_a_client_that_leaves_before_its_request_was_sent() -> None:
    """While a long message is on its way: its `open` still goes out before its `close`."""
    go_on = asyncio.Event()

    async def script(gateway: FakeGateway, connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        await go_on.wait()
        connection.transport.resume_reading()
        await gateway.read_all(connection)

    async with fake_gateway(script) as gateway, running_link(gateway.url) as link:
        large = [await ask(link, b"x" * 4_000_000) for _ in range(3)]
        await asyncio.sleep(0.1)
        gone = await ask(link)
        gone.client_left()
        await asyncio.sleep(0.1)
        go_on.set()
        await eventually(lambda: len(gateway.received) == 5)
        of_it = [message for message in gateway.received if message.channel == gone.session.channel]
        assert [type(message) for message in of_it] == [Open, Close]
        assert len({message.channel for message in gateway.received}) == len(large) + 1


async def test_a_lost_connection_is_said_and_replaced(caplog: pytest.LogCaptureFixture) -> None:
    async def drops(gateway: FakeGateway, connection: ServerConnection) -> None:
        message = await gateway.read(connection)
        if len(gateway.connections) > 2:
            await say(connection, *answer(message.channel))
            await gateway.read_all(connection)
        connection.transport.abort()

    async with fake_gateway(drops) as gateway, running_link(gateway.url) as link:
        for _ in range(2):
            with pytest.raises(Unavailable, match="link to the gateway was lost"):
                await payloads(await ask(link))
        assert await payloads(await ask(link)) == [b"{}"]
    lost = [record for record in caplog.records if "was lost" in record.getMessage()]
    assert len([record for record in lost if record.levelno == logging.WARNING]) == 1, "the same again is no news"


async def test_a_link_that_is_stopped_tells_its_clients() -> None:
    async with fake_gateway(is_silent) as gateway:
        async with running_link(gateway.url) as link:
            stream = await ask(link)
        with pytest.raises(Unavailable, match="the agent is shutting down"):
            await payloads(stream)
        assert not link.connected


async def test_too_many_requests_of_one_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_OPEN_REQUESTS", 2)
    async with fake_gateway(is_silent) as gateway, running_link(gateway.url) as link:
        for _ in range(2):
            await ask(link)
        with pytest.raises(Overloaded, match="2 requests are open at this agent") as error:
            await ask(link)
        assert error.value.headers()["retry-after"] == "1"


# A link that comes back.


async def test_a_session_goes_on_over_the_next_connection() -> None:
    async def script(gateway: FakeGateway, connection: ServerConnection) -> None:
        if isinstance(await gateway.read(connection), Open):
            await say(connection, *answer(0)[:2])
            connection.transport.abort()
        else:
            await say(connection, *answer(0)[2:])
        await gateway.read_all(connection)

    async with fake_gateway(script) as gateway, running_link(gateway.url, grace_s=10) as link:
        assert await payloads(await ask(link)) == [b"{}"]
        assert [type(m) for m in gateway.received[:2]] == [Open, Resume]
        assert gateway.received[1] == Resume(0, bytes(16), 1)
        assert len(gateway.connections) == 2


async def test_a_request_is_opened_again_where_it_was_not_answered() -> None:
    async def script(gateway: FakeGateway, connection: ServerConnection) -> None:
        await gateway.read(connection)
        if len(gateway.connections) == 1:
            connection.transport.abort()
        else:
            await say(connection, *answer(0))
        await gateway.read_all(connection)

    async with fake_gateway(script) as gateway, running_link(gateway.url, grace_s=10) as link:
        assert await payloads(await ask(link)) == [b"{}"]
        assert gateway.received[0] == gateway.received[1]


async def test_a_link_that_does_not_come_back_in_time_fails_its_requests() -> None:
    async def script(gateway: FakeGateway, connection: ServerConnection) -> None:
        await gateway.read(connection)
        await say(connection, opened())
        gateway.stop()
        connection.transport.abort()

    async with fake_gateway(script) as gateway, running_link(gateway.url, grace_s=0.5) as link:
        stream = await ask(link)
        await stream.opened()
        began = time.monotonic()
        with pytest.raises(Unavailable, match="link to the gateway was lost"):
            await payloads(stream)
        assert time.monotonic() - began > 0.3


async def test_a_link_that_is_stopped_without_a_connection_tells_its_clients() -> None:
    async def script(gateway: FakeGateway, connection: ServerConnection) -> None:
        await gateway.read(connection)
        gateway.stop()
        connection.transport.abort()

    async with fake_gateway(script) as gateway:
        async with running_link(gateway.url, grace_s=60) as link:
            stream = await ask(link)
            await eventually(lambda: not link.connected)
        with pytest.raises(Unavailable, match="the agent is shutting down"):
            await payloads(stream)
        assert gateway.connections


async def test_an_agent_that_stops_says_that_it_will_resume_nothing() -> None:
    async with fake_gateway(is_silent) as gateway:
        async with running_link(gateway.url) as link:
            await ask(link)
            await eventually(lambda: bool(gateway.received))
        await gateway.connections[0].wait_closed()
        assert gateway.connections[0].close_code == 1001


# Several gateways.


async def test_the_first_gateway_that_takes_us_serves(unused_tcp_port: int) -> None:
    async with fake_gateway(answers) as second, fake_gateway(answers) as third:
        dead = f"ws://127.0.0.1:{unused_tcp_port}/"
        async with running_link(dead, second.url, third.url) as link:
            assert await payloads(await ask(link)) == [b"{}"]
            assert (len(second.connections), len(third.connections)) == (1, 0)
            circuits = [gateway["circuit"] for gateway in link.gateways.report(time.monotonic())]
            assert circuits[0] in ("open", "half-open")
            assert circuits[1:] == ["closed", "closed"]


async def test_sessions_go_on_at_the_next_gateway_and_the_link_stays_there() -> None:
    async def dies(gateway: FakeGateway, connection: ServerConnection) -> None:
        await gateway.read(connection)
        await say(connection, *answer(0)[:2])
        gateway.stop()
        connection.transport.abort()

    async with fake_gateway(dies) as first, fake_gateway(forgets) as second:
        port = int(first.url.split(":")[2].split("/")[0])
        async with running_link(first.url, second.url, grace_s=10) as link:
            assert await payloads(await ask(link)) == [b"{}"]
            assert [type(m) for m in second.received[:2]] == [Resume, Open]
            async with fake_gateway(answers, port=port) as back:
                assert await payloads(await ask(link)) == [b"{}"]
                assert not back.connections
                second.connections[0].transport.abort()
                second.stop()
                await eventually(lambda: bool(back.connections))
                assert await payloads(await ask(link)) == [b"{}"]


async def test_a_request_that_comes_the_moment_the_link_is_up_is_opened() -> None:
    async with fake_gateway(answers) as gateway:
        link = Link(gateways(gateway.url), settings(), None, None)
        link._requests.link_lost(Unavailable("the link was lost"))
        (there,) = link.gateways.in_attempt_order(0.0)
        link._adopt(there, await dialing.dial(there.address, None, None))
        assert link.connected
        stream = await link.request(Endpoint.COMPLETIONS, b"{}", "id")  # nothing else has run since
        assert await payloads(stream) == [b"{}"]
        running = list(link._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def test_none_of_the_gateways(unused_tcp_port_factory: Callable[[], int]) -> None:
    urls = [f"ws://127.0.0.1:{unused_tcp_port_factory()}/" for _ in range(2)]
    async with running_link(*urls) as link:
        with pytest.raises(Unavailable, match=r"none of 2 gateways: cannot reach .*; cannot reach"):
            await ask(link)
        async with fake_gateway(answers, port=int(urls[1].split(":")[2].strip("/"))):
            assert await payloads(await ask(link)) == [b"{}"], "a waiting client makes an attempt at each"


async def test_a_gateway_that_hangs_up_at_once_is_left_for_the_next() -> None:
    async def hangs_up(_: FakeGateway, connection: ServerConnection) -> None:
        connection.transport.abort()

    async with (
        fake_gateway(hangs_up) as first,
        fake_gateway(answers) as second,
        running_link(first.url, second.url) as link,
    ):
        await eventually(lambda: bool(second.connections))
        await eventually(lambda: link.connected)
        assert await payloads(await ask(link)) == [b"{}"]
        assert len(first.connections) == 1


# A gateway that is about to end.


async def drains(gateway: FakeGateway, connection: ServerConnection) -> None:
    """Begins an answer, then says that it is about to end."""
    message = await gateway.read(connection)
    await say(connection, *answer(message.channel)[:2], Draining(30))
    await gateway.read_all(connection)


async def test_sessions_are_moved_before_a_gateway_ends() -> None:
    async with (
        fake_gateway(drains) as first,
        fake_gateway(answers) as second,
        running_link(first.url, second.url) as link,  # without a grace time: nothing is lost
    ):
        assert await payloads(await ask(link)) == [b"{}"]
        assert type(second.received[0]) is Open
        assert link.connected
        await first.connections[0].wait_closed()
        assert first.connections[0].close_code == 1001
        report = link.gateways.report(time.monotonic())
        assert [(gateway["connected"], gateway["draining"]) for gateway in report] == [(False, True), (True, False)]
        assert await payloads(await ask(link)) == [b"{}"]
        assert len({message.channel for message in first.received}) == 1


@pytest.mark.parametrize("pause_s", [0.0, 0.03])
async def test_what_only_the_old_gateway_can_finish_stays_there_to_its_end(pause_s: float) -> None:
    """pause_s: of a link that never has room at once: a connection may be left while it waits."""
    called = b'{"choices":[{"index":0,"delta":{"tool_calls":[{"id":"x"}]}}]}'
    go_on = asyncio.Event()

    async def script(gateway: FakeGateway, connection: ServerConnection) -> None:
        first, second = await gateway.read(connection), await gateway.read(connection)
        await say(connection, *answer(first.channel)[:2], Event(first.channel, 2, 3, called))
        await say(connection, *answer(second.channel)[:2])
        await go_on.wait()
        await say(connection, Draining(30))
        await gateway.read(connection)
        await say(connection, verdict(second.channel, 2, 3, 6))  # on its way when the session was moved
        await say(connection, Event(first.channel, 3, 3, b"{}"), End(first.channel, 4))
        await gateway.read_all(connection)

    def room_at() -> float:
        return time.monotonic() + pause_s if pause_s else 0.0

    async with (
        fake_gateway(script) as old,
        fake_gateway(answers) as new,
        running_link(old.url, new.url, room_at=room_at) as link,
    ):
        stays, moves = await ask(link), await ask(link)
        assert await stays.next() == called
        await moves.opened()
        go_on.set()
        assert await payloads(moves) == [b"{}"]
        assert [stays.session.channel, moves.session.channel] == [0, 1]
        stays.taken()
        assert await payloads(stays) == [b"{}"]
        assert old.received[2:] == [Close(1)]
        assert {message.channel for message in new.received} == {1}
        await old.connections[0].wait_closed()
        assert old.connections[0].close_code == 1001
        assert link.connected


async def test_what_stays_is_lost_with_the_old_gateway_and_told_so() -> None:
    called = b'{"choices":[{"index":0,"delta":{"tool_calls":[{"id":"x"}]}}]}'
    moved = asyncio.Event()

    async def old(gateway: FakeGateway, connection: ServerConnection) -> None:
        message = await gateway.read(connection)
        await say(connection, *answer(message.channel)[:2], Event(message.channel, 2, 3, called), Draining(1))
        await moved.wait()
        await connection.close(1012)

    async with (
        fake_gateway(old) as first,
        fake_gateway(forgets) as second,
        running_link(first.url, second.url, grace_s=10) as link,
    ):
        stays = await ask(link)
        assert await stays.next() == called
        await eventually(lambda: bool(second.connections))
        await eventually(lambda: link.gateways.report(time.monotonic())[1]["connected"])
        other = await ask(link)
        assert await payloads(other) == [b"{}"]
        assert other.session.channel != stays.session.channel
        moved.set()
        with pytest.raises(Unavailable, match="cannot be gone on with elsewhere"):
            await stays.next()
        assert link.connected
        assert len(second.connections) == 1


async def test_gateways_that_end_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one's next instance is there when the second one drains, long before the first one's deadline."""
    monkeypatch.setattr(connecting, "DRAINING_ASSUMED_S", 0.3)
    monkeypatch.setattr(link_module, "DRAINING_ASSUMED_S", 0.3)

    async def restarted(gateway: FakeGateway, connection: ServerConnection) -> None:
        if len(gateway.connections) == 1:
            await drains(gateway, connection)
        await answers(gateway, connection)

    async with (
        fake_gateway(restarted) as first,
        fake_gateway(drains) as second,
        running_link(first.url, second.url, grace_s=10) as link,
    ):
        assert await payloads(await ask(link)) == [b"{}"]
        assert len(first.connections) == 2
        assert len(second.connections) == 1


async def test_a_request_that_a_draining_gateway_refuses_goes_to_the_next() -> None:
    async def refuses(gateway: FakeGateway, connection: ServerConnection) -> None:
        message = await gateway.read(connection)
        await say(connection, Failed(message.channel, "unavailable", 503, b"{}"))
        await gateway.read_all(connection)

    async with fake_gateway(refuses) as first, fake_gateway(answers) as second:
        async with running_link(first.url, second.url, grace_s=10) as link:
            assert await payloads(await ask(link)) == [b"{}"]
        async with running_link(first.url) as link:
            with pytest.raises(RemoteError):
                await payloads(await ask(link))


async def test_a_gateway_whose_engine_ends_in_mid_answer_is_left_for_the_next() -> None:
    async def breaks(gateway: FakeGateway, connection: ServerConnection) -> None:
        message = await gateway.read(connection)
        await say(connection, *answer(message.channel)[:2], Failed(message.channel, "unavailable", 503, b"{}"))
        await gateway.read_all(connection)

    async with fake_gateway(breaks) as first, fake_gateway(answers) as second:
        async with running_link(first.url, second.url, grace_s=10) as link:
            assert await payloads(await ask(link)) == [b"{}"]
        async with running_link(first.url, grace_s=10) as link:
            with pytest.raises(RemoteError):
                await payloads(await ask(link))


async def test_a_draining_gateway_without_another_refuses_and_finishes(unused_tcp_port: int) -> None:
    async def script(gateway: FakeGateway, connection: ServerConnection) -> None:
        first = await gateway.read(connection)
        await say(connection, *answer(first.channel)[:2], Draining(30))
        second = await gateway.read(connection)
        await say(connection, Failed(second.channel, "unavailable", 503, b"{}"))
        await say(connection, *answer(first.channel)[2:])
        await gateway.read_all(connection)

    async with fake_gateway(script) as gateway:
        for others in ((), (f"ws://127.0.0.1:{unused_tcp_port}/",)):
            async with running_link(gateway.url, *others, grace_s=10) as link:
                running = await ask(link)
                await running.opened()
                with pytest.raises(RemoteError):
                    await payloads(await ask(link))
                assert await payloads(running) == [b"{}"]


# One address, many servers: a load balancer's.


async def test_an_address_that_declines_is_tried_again_before_a_client_is_told() -> None:
    refusals = [503, 502, 503]

    def refuse(connection: ServerConnection, _: Request) -> Response | None:
        return connection.respond(http.HTTPStatus(refusals.pop()), "no") if refusals else None

    gateway = FakeGateway(answers)
    async with serve(
        gateway.serve, "127.0.0.1", 0, subprotocols=[Subprotocol(SUBPROTOCOL)], process_request=refuse
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with running_link(f"ws://127.0.0.1:{port}/v1/pipesd/ws") as link:
            assert await payloads(await ask(link)) == [b"{}"]
    assert not refusals


async def test_a_server_that_refused_something_and_goes_on_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipesd_agent.link.link.AGAIN_S", 0.3)

    async def script(gateway: FakeGateway, connection: ServerConnection) -> None:
        message = await gateway.read(connection)
        await say(connection, Failed(message.channel, "unavailable", 503, b"{}"))
        await answers(gateway, connection)

    async with fake_gateway(script, instances=("a",)) as gateway, running_link(gateway.url, grace_s=10) as link:
        with pytest.raises(RemoteError):
            await payloads(await ask(link))
        await asyncio.sleep(0.1)
        attempts = gateway.handshakes
        await asyncio.sleep(1.5)
        assert gateway.handshakes == attempts, "nobody looks for another one any more"
        assert [one["draining"] for one in link.gateways.report(time.monotonic())] == [False]
        assert await payloads(await ask(link)) == [b"{}"]


@pytest.mark.parametrize("other", ["b", ""])
async def test_sessions_are_moved_to_another_server_at_the_same_address(other: str) -> None:
    """The first attempt to get there comes out at the server that ends. The other one may be of an older version, that
    tells no name."""

    async def script(gateway: FakeGateway, connection: ServerConnection) -> None:
        await (drains if len(gateway.connections) == 1 else answers)(gateway, connection)

    async with (
        fake_gateway(script, instances=("a", "a", other)) as gateway,
        running_link(gateway.url) as link,  # without a grace time: nothing is lost
    ):
        assert await payloads(await ask(link)) == [b"{}"]
        first, same, _ = gateway.connections
        await asyncio.gather(first.wait_closed(), same.wait_closed())
        assert (first.close_code, same.close_code) == (1001, 1001)
        assert [type(message) for message in gateway.received][:1] == [Open]
        assert not any(isinstance(message, Resume) for message in gateway.received)
        report = link.gateways.report(time.monotonic())
        assert [(one["connected"], one["circuit"], one["draining"]) for one in report] == [(True, "closed", False)]


@pytest.mark.parametrize("begun", [False, True])
async def test_what_one_server_refuses_another_at_its_address_is_asked_for(begun: bool) -> None:
    async def script(gateway: FakeGateway, connection: ServerConnection) -> None:
        if len(gateway.connections) > 1:
            await answers(gateway, connection)
        message = await gateway.read(connection)
        told = answer(message.channel)[:2] if begun else ()
        await say(connection, *told, Failed(message.channel, "unavailable", 503, b"{}"))
        await gateway.read_all(connection)

    async with (
        fake_gateway(script, instances=("a", "b")) as gateway,
        running_link(gateway.url, grace_s=10) as link,
    ):
        assert await payloads(await ask(link)) == [b"{}"]


async def test_one_server_s_refusal_is_told_when_no_other_is_met_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "AGAIN_S", 0.3)

    async def script(gateway: FakeGateway, connection: ServerConnection) -> None:
        message = await gateway.read(connection)
        await say(connection, Failed(message.channel, "unavailable", 503, b"{}"))
        await gateway.read_all(connection)

    async with fake_gateway(script, instances=("a",)) as gateway, running_link(gateway.url, grace_s=60) as link:
        with pytest.raises(RemoteError):
            await payloads(await ask(link))
        assert gateway.handshakes > 1
        assert link.connected
        assert link.gateways.report(time.monotonic())[0]["failures"] == 0


async def test_a_gateway_that_restarts_is_waited_for() -> None:
    async def restarts(gateway: FakeGateway, connection: ServerConnection) -> None:
        message = await gateway.read(connection)
        if isinstance(message, Open) and len(gateway.connections) == 1:
            await say(connection, *answer(0)[:2], Draining(0))
            await connection.close(1012)
        else:
            await say(connection, Failed(0, "session_unknown", 410, b"{}"))
            await answers(gateway, connection)

    async with fake_gateway(restarts) as gateway, running_link(gateway.url, grace_s=10) as link:
        assert await payloads(await ask(link)) == [b"{}"]
        assert [type(message) for message in gateway.received[:3]] == [Open, Resume, Open]
    async with fake_gateway(restarts) as gateway, running_link(gateway.url) as link:
        with pytest.raises(Unavailable, match="gateway is shutting down"):
            await payloads(await ask(link))


async def test_silence_about_one_request_leaves_the_others_alone() -> None:
    """A queue, a long prompt: its client is told; the End that its Close is answered with comes for a known channel."""

    async def script(gateway: FakeGateway, connection: ServerConnection) -> None:
        for _ in range(2):
            await gateway.read(connection)
        await say(connection, opened(1))
        close = await gateway.read(connection)
        assert isinstance(close, Close)
        await say(connection, End(close.channel, 1), *answer(1)[1:])
        await gateway.read_all(connection)

    async with fake_gateway(script) as gateway, running_link(gateway.url, silence_timeout_s=0.5) as link:
        silent, other = await ask(link), await ask(link)
        await other.opened()
        other.session._last_received += 60
        with pytest.raises(Unavailable, match=r"silent for 0\.5 s"):
            await silent.opened()
        assert await payloads(other) == [b"{}"]
        assert len(gateway.connections) == 1


# What is tried again and again is logged once.


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (circuit_breaker, link_module):
        monkeypatch.setattr(module, "BACKOFF_FIRST_S", 0.001)
    monkeypatch.setattr(link_module, "BACKOFF_LIMIT_S", 0.002)


async def test_a_refused_key_is_logged_once_and_again_when_it_is_another_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, unused_tcp_port: int
) -> None:
    quick(monkeypatch)
    caplog.set_level(logging.INFO)
    asked = 0

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with running_link(f"ws://127.0.0.1:{unused_tcp_port}/") as link:
        await eventually(lambda: link.gateways.in_attempt_order(0.0)[0].circuit.failures > 5)
        async with await asyncio.start_server(refuse, "127.0.0.1", unused_tcp_port):
            await eventually(lambda: asked > 5)
            told = [record.getMessage() for record in caplog.records if record.name.startswith("pipesd_agent")]
    assert len(told) == 2, told
    assert "cannot reach the gateway" in told[0]
    assert "refuses this agent's key" in told[1]


async def test_a_gateway_that_takes_the_link_and_drops_it_at_once_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    quick(monkeypatch)
    caplog.set_level(logging.INFO)

    async def drops(_: FakeGateway, connection: ServerConnection) -> None:
        if len(gateway.connections) > 5:
            await gateway.read_all(connection)
        await say(connection, Rejected("unknown_version", "install matching versions"))

    def told() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name.startswith("pipesd_agent")]

    monkeypatch.setattr(link_module, "STABLE_S", 600.0)
    async with fake_gateway(drops) as gateway, running_link(gateway.url) as link:
        await eventually(lambda: len(gateway.connections) > 5 and link.connected)
        connected = f"link: connected to {gateway.url}"
        first, second = told()
        assert first == connected
        assert second.endswith("install matching versions")
        (one,) = link.gateways.in_attempt_order(0.0)
        assert link._connection is not None
        link._say_connected(one, link._connection)  # as its timer does when it has lasted
        assert told()[2:] == [connected]


async def test_a_bug_in_connecting_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    quick(monkeypatch)
    calls = 0

    def broken(*_: Any, **__: Any) -> Any:
        nonlocal calls
        calls += 1
        raise ZeroDivisionError

    monkeypatch.setattr("pipesd_agent.link.dialing.connect", broken)
    async with running_link("ws://127.0.0.1:9/"):
        await eventually(lambda: calls > 5)
    assert caplog.text.count("the attempt to connect failed") == 1


async def test_a_bug_of_one_request_ends_that_one_and_the_others_keep_their_clocks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The timer of all requests: nobody awaits it, so an exception in it would be the end of all their deadlines."""
    async with fake_gateway(is_silent) as gateway, running_link(gateway.url, silence_timeout_s=0.3) as link:
        bad, good = await ask(link), await ask(link)
        monkeypatch.setattr(bad, "tick", lambda _: 1 / 0)
        with pytest.raises(Unavailable, match="failed inside this agent"):
            await payloads(bad)
        with pytest.raises(Unavailable):
            await payloads(good)
        await eventually(lambda: Close(bad.session.channel) in gateway.received)
    assert "request id failed inside the agent" in caplog.text


async def test_a_request_that_cannot_even_be_ended_is_dropped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    table = requests.RequestTable(settings(), None)
    made = [table.open(Endpoint.COMPLETIONS, BODY, name, collaborative=False, observers=()) for name in "abc"]

    def breaks(*_: Any) -> None:
        raise ZeroDivisionError

    for stream in made[:2]:
        monkeypatch.setattr(stream, "resumed", breaks)
    monkeypatch.setattr(made[0].session, "fail", breaks)
    table.link_restored()
    assert table.all() == made[1:], "it could not be ended"
    with pytest.raises(Unavailable, match="failed inside this agent"):
        await made[0].next()
    assert table.was_dropped(0)
    table.link_restored()
    assert table.all() == made[2:], "nor did it end when it was told to"
    with pytest.raises(Unavailable, match="failed inside this agent"):
        await made[1].next()
    table.close(Unavailable("the end"))
    assert "request a could not be ended" in caplog.text
