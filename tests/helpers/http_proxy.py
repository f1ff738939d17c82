"""An HTTP proxy that sends everything to one server, whatever host is asked for."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec import Struct, field


class HttpProxy(Struct):
    """port: where it listens. asked: request lines that it got. refuses: the status that it answers, if any."""

    port: int = 0
    asked: list[str] = field(default_factory=list)
    refuses: str = ""
    credentials: str = ""

    @property
    def url(self) -> str:
        return f"http://{self.credentials}{'@' if self.credentials else ''}127.0.0.1:{self.port}"


@asynccontextmanager
async def http_proxy(target: int, *, refuses: str = "", credentials: str = "") -> AsyncIterator[HttpProxy]:
    """A proxy to 127.0.0.1:target. It speaks CONNECT, and GET and POST of an absolute URL."""
    proxy = HttpProxy(refuses=refuses, credentials=credentials)
    wanted = f"proxy-authorization: basic {base64.b64encode(credentials.encode()).decode()}".lower()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        except OSError:
            pass

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, _, rest = head.partition("\r\n")
        proxy.asked.append(first)
        status = proxy.refuses or (
            "" if not credentials or wanted in rest.lower() else "407 Proxy Authentication Required"
        )
        if status:
            writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n".encode())
            writer.close()
            return
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", target)
        method, url, version = first.split(" ")
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            path = "/" + url.partition("://")[2].partition("/")[2]
            to_writer.write(f"{method} {path} {version}\r\n{rest}".encode())
        await asyncio.gather(carry(reader, to_writer), carry(to_reader, writer), return_exceptions=True)
        for each in (writer, to_writer):
            each.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
