"""A TCP relay that keeps what an agent sends, and reads the WebSocket frames in it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from pipesd_core.protocol.messages import EdgeMessage, decode_edge

CONTROL: Final = {8: "close frames", 9: "ping", 10: "pong"}


@dataclass(frozen=True)
class Sent:
    """A message or a control frame. size: bytes on the wire, headers and masks included."""

    kind: str
    size: int
    message: EdgeMessage | None = None


class Relay:
    """Forwards connections to ports of this machine, in turn, as a load balancer does. Closed by `close`."""

    def __init__(self, *ports: int) -> None:
        self._to = deque(ports)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._uploads: list[bytearray] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """All connections there are, at both ends; new ones are let through."""
        for end in list(self._sockets):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for end in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def sent(self) -> list[Sent]:
        """What the agent sent over its WebSockets so far, whole messages."""
        return messages_in(self._uploads)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = self._connect()
            if server is None:
                client.close()
                continue
            upload = bytearray()
            self._uploads.append(upload)
            self._sockets += [client, server]
            threading.Thread(target=self._copy, args=(client, server, upload), daemon=True).start()
            threading.Thread(target=self._copy, args=(server, client, bytearray()), daemon=True).start()

    def _connect(self) -> socket.socket | None:
        for _ in range(len(self._to)):
            self._to.rotate(-1)
            with contextlib.suppress(OSError):
                return socket.create_connection(("127.0.0.1", self._to[-1]))
        return None

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                kept += data
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


def messages_in(uploads: Iterable[bytearray]) -> list[Sent]:
    """Whole messages in what an agent sent over its connections; those that are no WebSockets are left out."""
    return [
        sent
        for upload in uploads
        if b"upgrade: websocket" in bytes(upload[:2000]).lower() and b"\r\n\r\n" in upload
        for sent in _messages(bytes(upload))
    ]


def _messages(upload: bytes) -> Iterator[Sent]:
    at = upload.index(b"\r\n\r\n") + 4
    size, body = 0, b""
    while at + 2 <= len(upload):
        begin, final, opcode, length = at, upload[at] & 0x80, upload[at] & 0x0F, upload[at + 1] & 0x7F
        assert upload[at + 1] & 0x80, "clients mask their frames"
        at += 2
        if length >= 126:
            width = 2 if length == 126 else 8
            length, at = int.from_bytes(upload[at : at + width], "big"), at + width
        mask, at = upload[at : at + 4], at + 4
        payload, at = upload[at : at + length], at + length
        if at > len(upload):
            return
        if opcode in CONTROL:
            yield Sent(CONTROL[opcode], at - begin)
            continue
        body += bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
        size += at - begin
        if final:
            message = decode_edge(body)
            yield Sent(type(message).__name__.lower(), size, message)
            size, body = 0, b""
