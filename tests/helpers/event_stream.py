"""The data of events in httpx's responses, by the lines of the format: `iter_lines` goes by Unicode's rules."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx

from pipesd_core.sse import EventReader


def data_of(response: httpx.Response) -> Iterator[str]:
    """The data of each event, `[DONE]` included, as they come; of a response read before, too."""
    reader = EventReader()
    for chunk in response.iter_bytes():
        yield from map(bytes.decode, reader.feed(chunk))


async def data_as_it_comes(response: httpx.Response) -> AsyncIterator[str]:
    """The same of a response of an `AsyncClient`."""
    reader = EventReader()
    async for chunk in response.aiter_bytes():
        for data in reader.feed(chunk):
            yield data.decode()


def data_by_unicode_s_lines(response: httpx.Response) -> list[str]:
    """The data as many clients find it, by httpx's `iter_lines`: what is sent must be the same to them."""
    return [line.removeprefix("data: ") for line in response.iter_lines() if line and not line.startswith(":")]


def has_the_format_s_lines_only(text: str) -> bool:
    """Whether a stream, or a body, has the same lines by Unicode's rules."""
    return text.splitlines() == text.removesuffix("\n").split("\n")
