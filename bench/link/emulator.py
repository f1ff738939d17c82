"""A link between two programs on one machine: a TCP proxy with rates, delays, jitter, rate traces, and faults.

    python -m bench.link.emulator --to 127.0.0.1:8100 --up 20M --down 200M --delay-ms 12.5

Bytes are delayed before they are delivered, never after, and stay in order. All connections share the link. A sender
feels it as it would a real one: what the link cannot take stays in the sender's socket (buffers here are bounded).
It is no network: TCP's own losses and slow start are not there, and a connection is made without delay.

`Emulator` runs the proxy on a thread of its own; its methods may be called from any thread, and what they do has
happened when they return. The loop waits by select(2): epoll's whole milliseconds would be an error of some per cent.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import selectors
import threading
from collections.abc import Coroutine, Iterable
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

from bench.link.lane import Step, Way, redrawn
from bench.link.proxy import Proxy, Tap, cut, drop_client, drop_server, reset

T = TypeVar("T")
End = Literal["client", "server"]
COMMAND_S: Final = 10.0


class Emulator:
    """The proxy on a thread of its own, from now until `close`. All methods return when they have taken effect.

    Args:
        to: host and port of the server.
        up, down: the normal link, towards the server and back.
        seed: of the jitter.
        tap: called on the emulator's thread with a connection's number and bytes that were delivered to the server.
    """

    def __init__(
        self,
        to: tuple[str, int],
        up: Way | None = None,
        down: Way | None = None,
        *,
        seed: int = 0,
        tap: Tap | None = None,
    ) -> None:
        self._loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
        self._thread = threading.Thread(target=self._loop.run_forever, name="emulator", daemon=True)
        self._thread.start()
        self._proxy = self._do(_make(to, up or Way(), down or Way(), seed, tap))
        self.port = self._proxy.port
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    @property
    def connections(self) -> int:
        """Accepted so far."""
        return self._proxy.accepted

    @property
    def bytes(self) -> tuple[int, int]:
        """That have left, up and down."""
        return self._proxy.up.bytes, self._proxy.down.bytes

    def settle(self) -> None:
        """Wait until everything that was sent has been carried, and the emulator waits for more.

        What is sent while it is still catching up counts as sent right behind what came before.
        """
        self._do(self._proxy.settle())

    def play(self, steps: Iterable[Step]) -> None:
        """Rates as in a trace, from now on; the last ones stay. They become the normal ones."""
        self._do(self._proxy.play(steps))

    def normal(self) -> None:
        """The link as it was made: what hung goes on, new connections are accepted, at the normal rates and whole."""
        self._do(self._proxy.normal())

    def reset(self) -> int:
        """RST to both ends of every connection. As all that ends connections: new ones are let through; returns how
        many ended."""
        return self._do(self._proxy.end(reset))

    def cut(self) -> int:
        """FIN to both ends of every connection; what is on its way is lost."""
        return self._do(self._proxy.end(cut))

    def half_open(self, stays: End) -> int:
        """One end of every connection gets a RST; the one that `stays` is told nothing, and talks to nobody."""
        return self._do(self._proxy.end(drop_server if stays == "client" else drop_client))

    def hang(self) -> None:
        """Nothing passes and nothing is lost; connections stay, and new ones are accepted and hang too."""
        self._do(self._proxy.hang())

    def stall(self, seconds: float) -> None:
        """Nothing leaves for so long; what is in the air arrives."""
        self._do(self._proxy.stall(seconds))

    def throttle(self, rate: float) -> None:
        """This rate both ways, in bit/s."""
        self._do(self._proxy.change(lambda way: replace(way, rate=rate)))

    def slice(self, piece: int, pause_s: float) -> None:
        """At most so many bytes at a time, with pauses between."""
        self._do(self._proxy.change(lambda way: replace(way, piece=piece, pause_s=pause_s)))

    def refuse(self) -> None:
        """New connections are refused; those there are go on."""
        self._do(self._proxy.refuse())

    def close(self) -> None:
        """Close everything. Harmless when repeated."""
        if self._loop.is_closed():
            return
        self._do(self._proxy.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(COMMAND_S)
        self._loop.close()

    def _do(self, command: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(command, self._loop).result(COMMAND_S)


async def _make(to: tuple[str, int], up: Way, down: Way, seed: int, tap: Tap | None) -> Proxy:
    return Proxy(to, up, down, seed, tap)


def rate(text: str) -> float:
    """bit/s of "20M", "100k" or "9600"."""
    factor = {"k": 1e3, "M": 1e6, "G": 1e9}.get(text[-1:], 1.0)
    return float(text[:-1] if factor > 1 else text) * factor


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.link.emulator", description="A link between two programs.")
    parser.add_argument("--to", required=True, metavar="HOST:PORT", help="of the server")
    parser.add_argument("--up", type=rate, default=math.inf, metavar="RATE", help="bit/s, such as 20M (no limit)")
    parser.add_argument("--down", type=rate, default=math.inf, metavar="RATE", help="bit/s (no limit)")
    parser.add_argument("--delay-ms", type=float, default=0.0, metavar="MS", help="each way (0)")
    parser.add_argument("--jitter-ms", type=float, default=0.0, metavar="MS", help="up to so much more (0)")
    parser.add_argument("--vary", nargs=4, type=rate, metavar="RATE", help="least and most up, least and most down")
    parser.add_argument(
        "--every", type=float, default=20.0, metavar="S", help="with --vary: seconds between draws (20)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of jitter and --vary (0)")
    given = parser.parse_args()
    host, _, port = given.to.rpartition(":")
    ways = (Way(rate, given.delay_ms / 1000, given.jitter_ms / 1000) for rate in (given.up, given.down))
    with Emulator((host, int(port)), *ways, seed=given.seed) as emulator:
        if given.vary:
            least_up, most_up, least_down, most_down = given.vary
            emulator.play(redrawn(given.seed, (least_up, most_up), (least_down, most_down), given.every, None))
        print(f"listening on {emulator.url}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
