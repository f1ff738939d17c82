"""One question to both sides at once: the target alone, and the same target through the agent."""

from __future__ import annotations

import codecs
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import httpx
from openai import OpenAI, OpenAIError

from bench.link.emulator import Emulator
from examples.demo.pair import CUT_S, Question

REQUEST_TIMEOUT_S: Final = 60.0
RACE_TIMEOUT_S: Final = 120.0
"""For one question: nobody looks longer at a demo."""
LOOK_EVERY_S: Final = 0.05
STOP_S: Final = 2.0


class Vocabulary(Protocol):
    """What `pieces_of` asks a model for."""

    def piece(self, token: int, *, special: bool) -> bytes: ...


class RaceFailed(Exception):
    """A side gave no answer; the message is one line."""


@dataclass(frozen=True)
class Piece:
    """Text of one token, or of several that came at once. accepted: it was drafted on the device, and right."""

    text: str
    accepted: bool = False


@dataclass(frozen=True)
class Progress:
    """What one side has so far.

    tokens: of output. passes: of the target. Times in seconds. up, down: bytes over the link.
    span_s: from the first chunk to the last.
    """

    pieces: tuple[Piece, ...] = ()
    text: str = ""
    tokens: int = 0
    passes: int = 0
    ttft_s: float | None = None
    span_s: float | None = None
    up: int = 0
    down: int = 0
    finished: bool = False

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; None: there is no second yet."""
        return None if self.span_s is None or self.tokens < 2 else self.span_s / (self.tokens - 1)

    @property
    def passes_per_token(self) -> float:
        return self.passes / max(1, self.tokens)


@dataclass(frozen=True)
class Scene:
    """Both sides at one moment. cut: the link of the agent is cut now; was_cut: it is, or has been."""

    question: Question
    alone: Progress
    through_agent: Progress
    cut: bool = False
    was_cut: bool = False

    @property
    def same(self) -> bool:
        return self.alone.text == self.through_agent.text


class Request:
    """One streamed request on a thread of its own, from now on."""

    def __init__(self, url: str, model: str, question: Question, request_id: str) -> None:
        self.request_id = request_id
        self._client = OpenAI(base_url=url, api_key="unused", timeout=REQUEST_TIMEOUT_S, max_retries=0)
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._progress = Progress()
        self._failure: str | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(model, question), name=request_id, daemon=True)
        self._thread.start()

    def progress(self) -> Progress:
        """What the client has. Raises RaceFailed where the request failed."""
        with self._lock:
            if self._failure is not None:
                raise RaceFailed(self._failure)
            return self._progress

    def close(self) -> None:
        """End the request, if it still runs."""
        self._stopped.set()
        self._client.close()
        self._thread.join(STOP_S)

    def _run(self, model: str, question: Question) -> None:
        try:
            for chunk in self._stream(model, question):
                if self._stopped.is_set():
                    return
                self._take(chunk, question.chat)
            with self._lock:
                self._progress = replace(self._progress, finished=True)
        except (OpenAIError, httpx.HTTPError, RuntimeError) as error:  # RuntimeError: the client has been closed
            with self._lock:
                self._failure = f"{self.request_id}: {str(error) or type(error).__name__}"

    def _stream(self, model: str, question: Question) -> Any:
        common: dict[str, Any] = {
            **question.options,
            "model": model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "extra_headers": {"x-request-id": self.request_id},
        }
        if question.chat:
            return self._client.chat.completions.create(
                messages=[{"role": "user", "content": question.prompt}], **common
            )
        return self._client.completions.create(prompt=question.prompt, **common)

    def _take(self, chunk: Any, chat: bool) -> None:
        now = time.monotonic()
        text = "".join((choice.delta.content if chat else choice.text) or "" for choice in chunk.choices)
        with self._lock:
            before = self._progress
            pieces, tokens, ttft, span = before.pieces, before.tokens, before.ttft_s, before.span_s
            if text:
                pieces, tokens = (*pieces, Piece(text)), tokens + 1
                ttft = now - self._began if ttft is None else ttft
                span = now - self._began - ttft
            if chunk.usage:
                tokens = chunk.usage.completion_tokens  # some tokens have no text of their own
            self._progress = replace(
                before, pieces=pieces, text=before.text + text, tokens=tokens, passes=tokens, ttft_s=ttft, span_s=span
            )


def pieces_of(vocabulary: Vocabulary, tokens: Sequence[tuple[int, bool]]) -> tuple[Piece, ...]:
    """Text of each token. A character in several tokens comes with the last of them."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return tuple(Piece(decoder.decode(vocabulary.piece(token, special=False)), accepted) for token, accepted in tokens)


def with_record(progress: Progress, record: dict[str, Any] | None, vocabulary: Vocabulary) -> Progress:
    """What the client has, with what the agent says of it: which tokens were drafted, and the number of passes."""
    if record is None:
        return progress
    pieces = pieces_of(vocabulary, record["tokens"])
    tokens = progress.tokens if progress.finished else record["output_tokens"]
    return replace(progress, pieces=pieces, tokens=tokens, passes=record["counts"]["forwards"])


class Cut:
    """The link's interruption in one question: `CUT_S` long, from so many tokens on."""

    def __init__(self, link: Emulator, at: int | None) -> None:
        self._link = link
        self._at = at
        self._since: float | None = None
        self.now = False

    @property
    def happened(self) -> bool:
        """Whether the link has been cut."""
        return self._since is not None

    def look(self, tokens: int) -> None:
        """Cut the link, or mend it, if it is time."""
        if self._since is None and self._at is not None and tokens >= self._at:
            self._since = time.monotonic()
            self.now = True
            self._link.refuse()
            self._link.cut()
        elif self.now and self._since is not None and time.monotonic() - self._since >= CUT_S:
            self.mend()

    def mend(self) -> None:
        """Let everything through again."""
        if self.now:
            self._link.normal()
            self.now = False


@dataclass(frozen=True)
class Track:
    """Where the questions go.

    alone: the link to the target that nobody drafts for. link: from the agent to the target that verifies. agent_url:
    of its API (…/v1). vocabulary: of the target.
    """

    alone: Emulator
    link: Emulator
    agent_url: str
    model: str
    vocabulary: Vocabulary

    def race(self, question: Question, name: str, show: Callable[[Scene], None]) -> Scene:
        """Ask both sides at once, show how far they are, and return how it ended. Raises RaceFailed."""
        before = self.alone.bytes, self.link.bytes
        cut = Cut(self.link, question.cut_at)
        with httpx.Client(base_url=self.agent_url, timeout=REQUEST_TIMEOUT_S) as agent:
            alone = Request(f"{self.alone.url}/v1", self.model, question, f"{name}-alone")
            through = Request(self.agent_url, self.model, question, f"{name}-agent")

            def scene() -> Scene:
                record = record_so_far(agent, through.request_id)
                own, shared = alone.progress(), with_record(through.progress(), record, self.vocabulary)
                own = replace(own, **bytes_since(self.alone, before[0]))
                shared = replace(shared, **bytes_since(self.link, before[1]))
                return Scene(question, own, shared, cut.now, cut.happened)

            try:
                deadline = time.monotonic() + RACE_TIMEOUT_S
                while not ((now := scene()).alone.finished and now.through_agent.finished):
                    if time.monotonic() > deadline:
                        raise RaceFailed(f"no answer within {RACE_TIMEOUT_S:.0f} s")
                    cut.look(now.through_agent.tokens)
                    show(replace(now, cut=cut.now, was_cut=cut.happened))
                    time.sleep(LOOK_EVERY_S)
            finally:
                cut.mend()
                alone.close()
                through.close()
            last = self._settled(agent, through.request_id, scene)
        show(last)
        return last

    def _settled(self, agent: httpx.Client, request_id: str, scene: Callable[[], Scene]) -> Scene:
        """The scene once the agent has the whole record, a moment after the answer."""
        deadline = time.monotonic() + STOP_S
        while not (record_so_far(agent, request_id) or {"finished": False})["finished"]:
            if time.monotonic() > deadline:
                raise RaceFailed(f"the agent does not know that {request_id} is over")
            time.sleep(LOOK_EVERY_S)
        return scene()


def bytes_since(link: Emulator, before: tuple[int, int]) -> dict[str, Any]:
    up, down = link.bytes
    return {"up": up - before[0], "down": down - before[1]}


def record_so_far(agent: httpx.Client, request_id: str) -> dict[str, Any] | None:
    """What the agent says of a request; None: it has not been opened yet. Raises RaceFailed."""
    try:
        response = agent.get(f"/pipesd/requests/{request_id}")
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        record: dict[str, Any] = response.raise_for_status().json()
    except httpx.HTTPError as error:
        raise RaceFailed(f"the agent does not say what {request_id} did: {error}") from error
    return record
