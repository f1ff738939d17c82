"""Verification over plain HTTP: over an engine whose target is a function of the prefix, and over the embedded one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import httpx
import msgspec
import pytest
from fake_decoder import EOS, FakeDecoder
from fastapi import FastAPI, Request, Response
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette

from pipesd_core.engine.fake import FakeEngine, FakeGeneration
from pipesd_core.engine.interface import Broken, Deliver, EngineOutput, Finished, ModelInfo, StepDone, Working
from pipesd_core.errors import EngineFailed, InvalidRequest, Unavailable
from pipesd_core.llamacpp.runtime.engine import EmbeddedEngine
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.sampling.params import SamplingParams
from pipesd_core.service.api_keys import Keys
from pipesd_gateway import verify_api
from pipesd_gateway.api import create_app

INFO = ModelInfo(name="fake", n_vocab=50, fingerprint=bytes(16), max_context=40, max_drafts=6)


def next_token(prefix: Sequence[int]) -> int:
    return (31 * sum(prefix) + len(prefix)) % INFO.n_vocab


def truth(prompt: Sequence[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(next_token(ids))
    return ids[len(prompt) :]


class MadeUpEngine(FakeEngine):
    """Its target is `next_token`. `max_running`: generations at once."""

    def __init__(self, max_running: int = 64) -> None:
        super().__init__(
            lambda opening, output: next_token([*opening.prompt_ids, *output]),
            info=INFO,
            eos_ids=(),
            max_running=max_running,
        )

    async def open(self, endpoint: Endpoint, body: bytes, deliver: Deliver) -> FakeGeneration:
        assert endpoint is Endpoint.COMPLETIONS
        assert msgspec.json.decode(body)["ignore_eos"] is True
        return await super().open(endpoint, body, deliver)

    @property
    def steps(self) -> int:
        """Steps that were asked for."""
        return sum(len(generation.orders) for generation in self.generations)

    def assert_one_step_at_a_time(self) -> None:
        assert not any(ahead for generation in self.generations for ahead in generation.aheads)

    def assert_let_go(self) -> None:
        assert self.queued == 0
        assert all(generation.aborted for generation in self.generations)
        self.assert_one_step_at_a_time()


@pytest.fixture
async def engine() -> AsyncIterator[MadeUpEngine]:
    engine = MadeUpEngine()
    yield engine
    engine.assert_one_step_at_a_time()


def wanted(prompt: Sequence[int], drafts: Sequence[int]) -> verify_api.VerificationRequest:
    return verify_api.VerificationRequest(tuple(prompt), tuple(drafts), SamplingParams(seed=7))


def body(**fields: Any) -> bytes:
    return msgspec.json.encode({"requests": [{"prompt": [1, 2], "drafts": [3]} | fields]})


# What the target says.


@given(
    prompt=st.lists(st.integers(0, 49), min_size=1, max_size=8),
    count=st.integers(0, 6),
    wrong_at=st.integers(0, 6),
    per_step=st.lists(st.integers(0, 3), max_size=8),
)
async def test_the_accepted_count_and_the_token_after(
    prompt: list[int], count: int, wrong_at: int, per_step: list[int]
) -> None:
    engine = MadeUpEngine()
    engine.per_step.extend(per_step)
    right = truth(prompt, count + 1)
    drafts = right[:count]
    if wrong_at < count:
        drafts[wrong_at] = (drafts[wrong_at] + 1) % 50
    (result,) = await verify_api.verify(engine, [wanted(prompt, drafts)])
    accepted = min(wrong_at, count)
    assert result == verify_api.VerificationResult(accepted, right[accepted], 7)
    engine.assert_let_go()


async def test_a_batch_shares_the_engine(engine: MadeUpEngine) -> None:
    batch = [wanted([i], truth([i], 3)) for i in range(20)]
    engine.per_step.extend([0] * 20)  # as vLLM: the step of the prompt verifies nothing
    results = await verify_api.verify(engine, batch)
    assert [result.token for result in results] == [truth([i], 4)[3] for i in range(20)]
    assert {result.accepted for result in results} == {3}
    assert engine.steps == 40
    engine.assert_let_go()


async def test_a_batch_waits_in_one_place_of_the_queue() -> None:
    engine = MadeUpEngine(max_running=2)
    results = await verify_api.verify(engine, [wanted([i], []) for i in range(9)])
    assert [result.token for result in results] == [next_token([i]) for i in range(9)]
    assert engine.most_queued == 1
    engine.assert_let_go()


async def test_requests_of_a_batch_run_side_by_side(engine: MadeUpEngine) -> None:
    engine.running = False
    call = asyncio.create_task(verify_api.verify(engine, [wanted([i], []) for i in range(5)]))
    await asyncio.sleep(0.02)
    assert len(engine.generations) == 5
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    engine.assert_let_go()


@pytest.mark.parametrize(
    ("step_output", "message"),
    [
        (Broken(EngineFailed("boom")), "boom"),
        (Finished(), "without taking a step"),
        (StepDone((5,), 0, 0, 0, 0, ends=True), "after 1 of 2 drafts"),
    ],
)
async def test_one_failure_fails_the_call_and_ends_the_others(
    engine: MadeUpEngine, step_output: EngineOutput, message: str
) -> None:
    engine.step_output = step_output
    with pytest.raises(EngineFailed, match=message):
        await verify_api.verify(engine, [wanted([i], [5, 5]) for i in range(5)])
    engine.assert_let_go()


async def test_no_batch_lasts_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_api, "TIMEOUT_S", 0.02)
    engine = MadeUpEngine(max_running=2)
    engine.running = False
    with pytest.raises(Unavailable, match="did nothing for the batch of 5 in"):
        await verify_api.verify(engine, [wanted([i], []) for i in range(5)])
    engine.assert_let_go()


async def test_a_batch_may_last_as_long_as_the_engine_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five times as long as it may be without a sign of life."""
    monkeypatch.setattr(verify_api, "TIMEOUT_S", 0.2)
    engine = MadeUpEngine()
    engine.running = False
    call = asyncio.create_task(verify_api.verify(engine, [wanted([i], []) for i in range(5)]))
    for _ in range(100):
        await asyncio.sleep(0)
    assert engine.steps == 5
    loop = asyncio.get_running_loop()
    for number in range(1, 11):  # timers, so that they are in order with that of the limit however late they all are
        loop.call_later(0.1 * number, engine.generations[0].deliver, Working())

    def take_all() -> None:
        for generation in engine.generations:
            generation.go()

    loop.call_later(1.0, take_all)
    assert [result.token for result in await call] == [next_token([i]) for i in range(5)]


# What is refused.


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (b"{", "the body: Input data was truncated"),
        (b"\xff", "the body:"),
        (b"[" * 100_000, "the body:"),
        (b"[]", "the body: Expected `object`"),
        (b"{}", "the body: Object missing required field `requests`"),
        (b'{"requests": []}', "requests must hold 1 to 64 requests, but holds 0"),
        (b'{"requests": [], "modle": "x"}', "the body: Object contains unknown field `modle`"),
        (b'{"requests": [], "model": 3}', "model: Expected `str | null`, got `int`"),
        (b'{"requests": [{"drafts": []}]}', "requests[0]: Object missing required field `prompt`"),
        (body(topp=1), "requests[0]: Object contains unknown field `topp`"),
        (body(prompt=[]), "requests[0].prompt must hold at least one token id, but is empty"),
        (body(prompt="hi"), "requests[0].prompt: Expected `array`, got `str`"),
        (body(prompt=[1, 50]), "requests[0].prompt[1] must be a token id from 0 to 49, but is 50"),
        (body(drafts=[1, 2, -1]), "requests[0].drafts[2] must be a token id from 0 to 49, but is -1"),
        (body(drafts=[True]), "requests[0].drafts[0]: Expected `int`, got `bool`"),
        (body(drafts=[1.5]), "requests[0].drafts[0]: Expected `int`, got `float`"),
        (body(drafts=[2**70]), f"requests[0].drafts[0] must be a token id from 0 to 49, but is {2**70}"),
        (body(drafts=[1] * 7), "requests[0].drafts may hold 6 token ids, but holds 7"),
        (body(prompt=[1] * 39), "requests[0] has 39 prompt ids and 1 drafts, with the token after them 41, but the"),
        (body(temperature=2.5), "requests[0].temperature must lie between 0 and 2, but is 2.5"),
        (body(temperature="1"), "requests[0].temperature: Expected `float`, got `str`"),
        (body(top_p=0), "requests[0].top_p must be above 0 and at most 1, but is 0"),
        (body(top_k=-2), "requests[0].top_k must be -1 or 0 (off) or positive, but is -2"),
        (body(seed=2**63), f"requests[0].seed must fit into 64 bits, but is {2**63}"),
        (body(seed="x"), "requests[0].seed: Expected `int | null`, got `str`"),
    ],
)
def test_what_is_refused(asked: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        verify_api.parse(asked, INFO)
    assert refused.value.message.startswith(message)
    assert refused.value.status == 400
    where = message.split()[0].rstrip(":")
    assert refused.value.param == (None if where == "the" else where)


def test_the_limits_themselves_are_allowed() -> None:
    allowed: list[dict[str, Any]] = [
        {"prompt": [0, 49], "drafts": [0, 49]},
        {"drafts": [1] * 6},
        {"drafts": []},
        {"prompt": [1] * 33, "drafts": [1] * 6},
        {"temperature": 2, "top_p": 1, "top_k": -1, "seed": -(2**63)},
    ]
    for fields in allowed:
        assert len(verify_api.parse(body(**fields), INFO)) == 1


def test_the_place_of_a_fault_in_a_batch() -> None:
    def batch(count: int, last: list[int]) -> bytes:
        one = {"prompt": [1], "drafts": []}
        return msgspec.json.encode({"requests": [one] * (count - 1) + [{"prompt": [1], "drafts": last}]})

    assert len(verify_api.parse(batch(64, [1]), INFO)) == 64
    with pytest.raises(InvalidRequest, match=r"requests\[3\]\.drafts\[2\] must be a token id from 0 to 49, but is 99"):
        verify_api.parse(batch(4, [1, 1, 99]), INFO)
    with pytest.raises(InvalidRequest, match="requests must hold 1 to 64 requests, but holds 65"):
        verify_api.parse(batch(65, []), INFO)


def test_what_the_engine_is_asked_for() -> None:
    (wanted,) = verify_api.parse(body(drafts=[3, 4], temperature=0.5, top_p=0.9, top_k=7, seed=-3), INFO)
    asked = {"prompt": [1, 2], "max_tokens": 3, "temperature": 0.5, "top_p": 0.9, "top_k": 7, "seed": -3}
    assert msgspec.json.decode(wanted.body()) == asked | {"ignore_eos": True}


def test_defaults_and_seeds() -> None:
    (first,), (second,) = (verify_api.parse(body(), INFO) for _ in range(2))
    assert (first.params.temperature, first.params.top_p, first.params.top_k) == (1.0, 1.0, 0)
    assert 0 <= first.params.seed < 2**63
    assert first.params.seed != second.params.seed
    assert verify_api.parse(body(seed=-3), INFO)[0].params.seed == -3


@given(st.binary(max_size=64) | st.builds(msgspec.json.encode, st.dictionaries(st.text(), st.integers())))
def test_any_bytes_are_accepted_or_refused(asked: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        verify_api.parse(asked, INFO)


# The route.


def bare_app(engine: MadeUpEngine) -> FastAPI:
    """As in vLLM: an app without our error handlers."""
    app = FastAPI()

    async def route(request: Request) -> Response:
        return await verify_api.respond(request, engine)

    app.add_api_route("/v1/pipesd/verify", route, methods=["POST"])
    return app


@contextlib.asynccontextmanager
async def client_of(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        yield client


@pytest.mark.parametrize("make_app", [create_app, bare_app])
async def test_over_http(engine: MadeUpEngine, make_app: Callable[[MadeUpEngine], Starlette]) -> None:
    prompts = [[4, 5], [6]]
    requests = [{"prompt": prompt, "drafts": truth(prompt, 2), "seed": 9} for prompt in prompts]
    async with client_of(make_app(engine)) as client:
        response = await client.post("/v1/pipesd/verify", json={"model": "fake", "requests": requests})
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/json"
        assert response.json() == {
            "model": "fake",
            "results": [{"accepted": 2, "token": truth(prompt, 3)[2], "seed": 9} for prompt in prompts],
        }
        for content, status, code in (
            (b"{", 400, None),
            (body(prompt=[1] * 40), 400, "context_length_exceeded"),
            (b'{"model": "other", "requests": [{"prompt": [1], "drafts": []}]}', 404, "model_not_found"),
        ):
            response = await client.post("/v1/pipesd/verify", content=content)
            assert response.status_code == status
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}
            assert response.json()["error"]["code"] == code


async def test_the_key_is_asked_for(engine: MadeUpEngine) -> None:
    async with client_of(create_app(engine, keys=Keys(frozenset({"secret"})))) as client:
        assert (await client.post("/v1/pipesd/verify", content=body())).status_code == 401
        client.headers["authorization"] = "Bearer secret"
        assert (await client.post("/v1/pipesd/verify", content=body())).status_code == 200


async def test_a_client_that_goes_away_lets_go_of_everything(engine: MadeUpEngine) -> None:
    engine.running = False
    sent = [{"type": "http.request", "body": body(), "more_body": False}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        if len(sent) == 1:
            while not engine.generations:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        return sent.pop(0)

    request = Request({"type": "http", "method": "POST", "headers": []}, receive)
    response = await asyncio.wait_for(verify_api.respond(request, engine), 60)
    assert response.status_code == 499
    assert len(engine.generations) == 1
    engine.assert_let_go()


async def test_over_the_embedded_engine() -> None:
    decoder = FakeDecoder(b"ab")
    decoder.answer = (97, EOS, 98)
    engine = EmbeddedEngine(decoder, name="fake")
    requests = [{"prompt": [1], "drafts": drafts, "temperature": 0} for drafts in ([97, EOS], [97, 98], [])]
    async with client_of(create_app(engine)) as client:
        response = await client.post("/v1/pipesd/verify", json={"requests": requests})
    results = [(result["accepted"], result["token"]) for result in response.json()["results"]]
    assert results == [(2, 98), (1, EOS), (0, 97)]  # EOS is a token like any other
    assert all(sequence.released for sequence in decoder.sequences)
    await engine.aclose()
