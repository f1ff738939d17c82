"""The rules that every engine follows (`pipesd_core.engine.interface`), as functions over an engine.

No pytest here: `RULES` and `CLOSING_RULES` also run under .venv-vllm's python, which has none. A rule raises
AssertionError where it is broken and `NotOffered` where the engine does not offer what it is about. Each says in its
docstring which sentence of the interface it is about.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol, runtime_checkable

import msgspec
from msgspec import Struct

from pipesd_core.engine.interface import (
    Broken,
    Deliver,
    Engine,
    EngineOutput,
    Finished,
    Generation,
    Opening,
    Payload,
    Queued,
    StepDone,
    Working,
)
from pipesd_core.errors import ApiError
from pipesd_core.protocol.messages import Endpoint

WAIT_S: Final = 60.0
"""Longest wait for anything."""
SILENCE_S: Final = 0.2
"""Nothing was said for so long: nothing is."""
LENGTH: Final = 24
"""Tokens of most answers here."""


class NotOffered(Exception):
    """The engine does not offer what the rule is about."""


class Subject(Struct, frozen=True):
    """An engine under test.

    prompt: ids; its first tokens are text of more than one character. ending: a prompt whose answer at temperature 0
    ends with EOS, after 3 tokens at the least and 200 at the most. max_running: generations at
    once; None: as many as one likes.
    """

    engine: Engine
    prompt: tuple[int, ...]
    ending: tuple[int, ...]
    max_running: int | None = None

    def body(self, **fields: Any) -> bytes:
        """A request for LENGTH tokens at temperature 0, streamed, except for what is given."""
        asked: dict[str, Any] = {
            "prompt": list(self.prompt),
            "max_tokens": LENGTH,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        return msgspec.json.encode({name: value for name, value in (asked | fields).items() if value is not ...})


Rule = Callable[[Subject], Awaitable[None]]
RULES: Final[list[Rule]] = []
CLOSING_RULES: Final[list[Rule]] = []
"""Those that close the engine: each needs one of its own."""


def rule(function: Rule) -> Rule:
    RULES.append(function)
    return function


def closing_rule(function: Rule) -> Rule:
    CLOSING_RULES.append(function)
    return function


@runtime_checkable
class GoesOn(Protocol):
    """What some engines offer beside the interface: to take over an answer that another engine began."""

    async def continue_answer(
        self, endpoint: Endpoint, body: bytes, opening: Opening, decided: tuple[int, ...], deliver: Deliver
    ) -> Generation: ...


Plan = Callable[[list[int]], Sequence[int]]
"""The drafts of the next step, for the tokens of the output so far."""


class Driven:
    """One generation, and everything that it has said, with the steps that it was asked for in between."""

    def __init__(self, *, stream: bool = True, decided: Sequence[int] = ()) -> None:
        self.generation: Generation
        self.tokens: list[int] = list(decided)
        self.steps: list[StepDone] = []
        self.payloads: list[Payload] = []
        self.queued: Queued | None = None
        self.ending: Finished | Broken | None = None
        self.faults: list[str] = []
        self.on_step: Callable[[StepDone], None] | None = None
        """Called within the callback that delivers a StepDone."""
        self._stream = stream
        self._decided = len(decided)
        self._owed: list[tuple[int, ...]] = []
        """The drafts of the StepDones that are to come."""
        self._aborted = False
        self._changed = asyncio.Event()

    async def open(self, engine: Engine, body: bytes, endpoint: Endpoint = Endpoint.COMPLETIONS) -> Driven:
        async with asyncio.timeout(WAIT_S):
            self.generation = await engine.open(endpoint, body, self.deliver)
        assert self.queued in (None, Queued(self.generation.opening))
        return self

    def order(self, drafts: Sequence[int] = (), ahead: int = 0) -> None:
        """Ask for a step. What it raises leaves no step to come."""
        self._owed += [tuple(drafts), *[()] * ahead]
        try:
            self.generation.step(drafts, ahead)
        except (RuntimeError, ValueError):
            del self._owed[-1 - ahead :]
            raise

    async def step(self, drafts: Sequence[int] = (), ahead: int = 0) -> list[StepDone]:
        """Take a step to its end; returns its StepDones."""
        before = len(self.steps)
        self.order(drafts, ahead)
        await self.until(lambda: not self._owed or self.ending is not None)
        self.check()
        return self.steps[before:]

    async def run(self, plan: Plan = lambda _: (), aheads: Sequence[int] = (0,)) -> Driven:
        """To its end. aheads: of the steps, in turn."""
        number = 0
        while self.ending is None and not (self.steps and self.steps[-1].ends):
            await self.step(plan(self.tokens), aheads[number % len(aheads)])
            number += 1
        await self.until(lambda: self.ending is not None)
        self.check()
        assert isinstance(self.ending, Finished), self.ending
        return self

    def abort(self) -> None:
        self._aborted = True
        self.generation.abort()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def check(self) -> None:
        assert not self.faults, self.faults

    def count(self) -> int:
        """How much it has said."""
        return len(self.steps) + len(self.payloads) + (self.ending is not None)

    def bodies(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(payload.data, type=dict[str, Any]) for payload in self.payloads]

    def text(self) -> str:
        """What the client has read."""
        parts = []
        for body in self.bodies():
            for choice in body["choices"]:
                message = choice.get("message") or choice.get("delta")
                parts.append((message.get("content") or "") if message is not None else choice.get("text") or "")
        return "".join(parts)

    def finish_reason(self) -> str | None:
        reasons = [choice["finish_reason"] for body in self.bodies() for choice in body["choices"]]
        return next((reason for reason in reasons if reason is not None), None)

    # The order of what is said. Faults are kept: the engine's callback is no place to raise.

    def deliver(self, output: EngineOutput) -> None:
        if self._aborted:
            self.faults.append(f"{output} after the abort")
        if self.ending is not None:
            self.faults.append(f"{output} after {self.ending}")
        match output:
            case Queued():
                if hasattr(self, "generation") or self.queued is not None:
                    self.faults.append(f"{output} after {self.queued or 'it was opened'}")
                self.queued = output
            case StepDone():
                self._take(output)
            case Working():
                if not self._owed:
                    self.faults.append("Working, but no step is under way")
            case Payload():
                self._show(output)
            case Finished():
                if not (self.steps and self.steps[-1].ends) and not self._decided:
                    self.faults.append("Finished, but no step ended the answer")
                if self.payloads and self.payloads[-1].upto != len(self.tokens):
                    self.faults.append(f"{len(self.tokens)} tokens, but the text of {self.payloads[-1].upto} is told")
                self.ending = output
            case Broken():
                self.ending = output
        self._changed.set()
        if isinstance(output, StepDone) and self.on_step is not None:
            self.on_step(output)

    def _take(self, done: StepDone) -> None:
        if not self._owed:
            self.faults.append(f"{done}, but no step is under way")
            return
        if self.steps and self.steps[-1].ends:
            self.faults.append(f"{done} after the step that ended the answer")
        drafts = self._owed.pop(0)
        accepted, tokens = done.accepted, done.tokens
        if not 0 <= accepted <= done.verified <= len(drafts):
            self.faults.append(f"{done} of {len(drafts)} drafts")
        if tokens[:accepted] != drafts[:accepted]:
            self.faults.append(f"{done} does not begin with the accepted ones of {drafts}")
        if not tokens or len(tokens) - accepted not in ((0, 1) if done.ends else (1,)):
            self.faults.append(f"{done}: as many tokens as accepted drafts, and one")
        if accepted < done.verified and tokens[accepted : accepted + 1] == drafts[accepted : accepted + 1]:
            self.faults.append(f"{done}: one more of {drafts} was right")
        if min(done.queue_us, done.forward_us) < 0:
            self.faults.append(f"{done}: a negative time")
        if done.ends:
            self._owed.clear()
        self.steps.append(done)
        self.tokens += tokens

    def _show(self, payload: Payload) -> None:
        if not self.steps and not self._decided:
            self.faults.append("a payload before the first StepDone")
        if payload.upto > len(self.tokens) and not self._decided:
            self.faults.append(f"the text of {payload.upto} tokens after StepDones of {len(self.tokens)}")
        if self.payloads and payload.upto < self.payloads[-1].upto:
            self.faults.append(f"upto {payload.upto} after {self.payloads[-1].upto}")
        if not self._stream and not (self.steps and self.steps[-1].ends) and not self._decided:
            self.faults.append("a payload in mid-answer, without stream")
        self.payloads.append(payload)


def right(reference: Sequence[int], most: int) -> Plan:
    """Drafts that are what the target decides."""
    return lambda output: tuple(reference[len(output) : len(output) + most])


def wrong(reference: Sequence[int], most: int, n_vocab: int) -> Plan:
    """Drafts that are never right."""
    return lambda output: [(token + 1) % n_vocab for token in reference[len(output) : len(output) + most]]


def mixed(reference: Sequence[int], most: int, n_vocab: int, seed: int = 5) -> Plan:
    """Drafts of any number, right up to any of them."""
    rng = random.Random(seed)

    def plan(output: list[int]) -> list[int]:
        ahead = list(reference[len(output) : len(output) + rng.randint(0, most)])
        return [token if rng.random() < 0.7 else rng.randrange(n_vocab) for token in ahead]

    return plan


async def target_only(subject: Subject, **fields: Any) -> Driven:
    """The reference: the answer with empty drafts."""
    driven = Driven(stream=fields.get("stream", True) is True)
    await driven.open(subject.engine, subject.body(**fields))
    return await driven.run()


async def refusal(engine: Engine, body: bytes, endpoint: Endpoint = Endpoint.COMPLETIONS) -> ApiError:
    """What `open` refuses a body with."""
    outputs: list[EngineOutput] = []
    try:
        async with asyncio.timeout(WAIT_S):
            generation = await engine.open(endpoint, body, outputs.append)
    except ApiError as error:
        assert all(isinstance(output, Queued) for output in outputs), outputs
        return error
    generation.abort()
    raise AssertionError(f"not refused: {body!r}")


# Opening.


@rule
async def the_engine_says_what_it_is(subject: Subject) -> None:
    """`ModelInfo`: what a client may know of the target."""
    info = subject.engine.info
    assert info.name
    assert len(info.fingerprint) == 16
    assert info.n_vocab > max(subject.prompt)
    assert info.max_drafts >= 1
    assert info.max_context > LENGTH
    assert subject.engine.info == info


@rule
async def the_opening_is_the_request_as_understood(subject: Subject) -> None:
    """`Opening`: what tells the edge how to draft, and what bounds the session."""
    asked = {"temperature": 0.75, "top_p": 0.5, "top_k": 5, "seed": 77, "stop": ["never to be seen"], "max_tokens": 3}
    driven = await Driven().open(subject.engine, subject.body(**asked))
    opening = driven.generation.opening
    driven.abort()
    params = opening.params
    assert (params.temperature, params.top_p, params.top_k, params.seed) == (0.75, 0.5, 5, 77)
    assert opening.prompt_ids == subject.prompt
    assert (opening.max_tokens, opening.stop, opening.model) == (3, ("never to be seen",), subject.engine.info.name)
    assert opening.eos_ids == (), "of an answer that ignores EOS"
    driven = await Driven().open(subject.engine, subject.body(ignore_eos=...))
    assert driven.generation.opening.eos_ids
    driven.abort()


@rule
async def a_seed_is_drawn_where_none_is_given(subject: Subject) -> None:
    """`SamplingParams.seed`: the edge draws the same noise, so `Opening` has the effective one."""
    seeds = set()
    for _ in range(2):
        driven = await Driven().open(subject.engine, subject.body(temperature=1))
        seeds.add(driven.generation.opening.params.seed)
        driven.abort()
    assert len(seeds) == 2


@rule
async def nothing_is_said_before_the_first_step(subject: Subject) -> None:
    """`Generation`: parked until it is told to step."""
    driven = await Driven().open(subject.engine, subject.body())
    await asyncio.sleep(SILENCE_S)
    assert driven.count() == 0
    driven.abort()


@rule
async def a_bad_request_is_refused_by_name(subject: Subject) -> None:
    """`Engine.open` raises ApiError for a bad request; a client is told which field it was."""
    bad: dict[str, Any] = {"temperature": 3, "max_tokens": 0, "top_p": 2, "stop": 5, "top_k": "five"}
    for field, value in bad.items():
        error = await refusal(subject.engine, subject.body(**{field: value}))
        assert error.status == 400, (field, error.status)
        assert field in f"{error.param} {error.message}", (field, error.param, error.message)
    for body in (b"", b"{", b"[]", b"\xff", subject.body(prompt=...), subject.body(prompt=[])):
        assert (await refusal(subject.engine, body)).status == 400, body
    n_vocab = subject.engine.info.n_vocab
    assert (await refusal(subject.engine, subject.body(prompt=[n_vocab]))).status == 400


@rule
async def an_unknown_model_and_a_prompt_without_room_are_refused(subject: Subject) -> None:
    """`Engine.open` raises ApiError: unknown model, prompt too long."""
    assert (await refusal(subject.engine, subject.body(model="no such model"))).status == 404
    context = subject.engine.info.max_context
    for length in (context, context + 1):
        assert (await refusal(subject.engine, subject.body(prompt=[subject.prompt[0]] * length))).status == 400


@rule
async def no_answer_is_longer_than_the_context(subject: Subject) -> None:
    """`ModelInfo.max_context`: prompt + output. More is refused, or `Opening.max_tokens` is what there is room for."""
    context = subject.engine.info.max_context
    room = context - len(subject.prompt)
    driven, refused = Driven(), None
    try:
        await driven.open(subject.engine, subject.body(max_tokens=context))
    except ApiError as error:
        refused = error
    if refused is None:
        assert driven.generation.opening.max_tokens == room
        driven.abort()
    else:
        assert refused.status == 400
    longest = await target_only(subject, max_tokens=room)
    assert len(longest.tokens) == room


@rule
async def a_call_that_waits_can_be_cancelled(subject: Subject) -> None:
    """`Engine.open`: waits in the engine's fair queue; cancelling the call gives the place in it back."""
    if subject.max_running is None:
        raise NotOffered("a number of places")
    taken = [await Driven().open(subject.engine, subject.body()) for _ in range(subject.max_running)]
    waiting = [asyncio.create_task(Driven().open(subject.engine, subject.body())) for _ in range(3)]
    await asyncio.sleep(SILENCE_S)
    assert not any(task.done() for task in waiting)
    waiting[0].cancel()
    await asyncio.wait(waiting[:1], timeout=WAIT_S)
    assert waiting[0].cancelled()
    taken.pop().abort()
    second = await asyncio.wait_for(waiting[1], WAIT_S)
    assert not waiting[2].done(), "one place became free"
    for driven in (*taken, second):
        driven.abort()
    (await asyncio.wait_for(waiting[2], WAIT_S)).abort()


# Drafts.


async def _lossless(subject: Subject, **fields: Any) -> None:
    info = subject.engine.info
    reference = await target_only(subject, **fields)
    most = info.max_drafts
    plans: dict[str, Plan] = {
        "right": right(reference.tokens, most),
        "wrong": wrong(reference.tokens, most, info.n_vocab),
        "mixed": mixed(reference.tokens, most, info.n_vocab),
    }
    for name, plan in plans.items():
        for aheads in ((0,), (0, 2, 1)):
            driven = await Driven().open(subject.engine, subject.body(**fields))
            await driven.run(plan, aheads)
            assert driven.tokens == reference.tokens, (name, aheads)
            assert driven.text() == reference.text(), (name, aheads)
            assert driven.finish_reason() == reference.finish_reason(), (name, aheads)


@rule
async def drafts_change_nothing_at_temperature_0(subject: Subject) -> None:
    """`Generation.step`: drafts are verified, so the tokens are those of a run with empty ones."""
    await _lossless(subject)


@rule
async def drafts_change_nothing_with_a_seed(subject: Subject) -> None:
    """Drafts change no tokens that are drawn either: the noise is that of their position, whatever step they are in."""
    await _lossless(subject, temperature=1, seed=11)
    await _lossless(subject, temperature=0.7, top_p=0.9, top_k=20, seed=-3)


@rule
async def drafts_change_nothing_where_eos_ends_the_answer(subject: Subject) -> None:
    """`StepDone.ends`; tokens past the end are never in one."""
    fields = {"prompt": list(subject.ending), "ignore_eos": ..., "max_tokens": 200}
    reference = await target_only(subject, **fields)
    assert reference.tokens[-1] in reference.generation.opening.eos_ids, "the subject's `ending` does not end"
    assert not set(reference.tokens[:-1]) & set(reference.generation.opening.eos_ids)
    assert len(reference.tokens) >= 3
    assert reference.finish_reason() == "stop"
    await _lossless(subject, **fields)
    beyond = [*reference.tokens, *reference.tokens]
    driven = await Driven().open(subject.engine, subject.body(**fields))
    await driven.run(right(beyond, subject.engine.info.max_drafts))
    assert driven.tokens == reference.tokens


@rule
async def drafts_change_nothing_where_max_tokens_end_the_answer(subject: Subject) -> None:
    """Drafts that go on beyond max_tokens change nothing."""
    longer = await target_only(subject)
    assert len(longer.tokens) == LENGTH
    assert longer.finish_reason() == "length"
    most = subject.engine.info.max_drafts
    for max_tokens in (1, 2, 5, 10):
        driven = await Driven().open(subject.engine, subject.body(max_tokens=max_tokens))
        await driven.run(right(longer.tokens, most))
        assert driven.tokens == longer.tokens[:max_tokens]
        assert driven.finish_reason() == "length"


@rule
async def drafts_change_nothing_where_a_stop_string_ends_the_answer(subject: Subject) -> None:
    """Drafts that go on change nothing at a stop string: the answer ends with the token that completes it."""
    longer = await target_only(subject)
    text = longer.text()
    for at, size in ((len(text) // 3, 1), (len(text) // 2, 3)):
        stop = text[at : at + size]
        reference = await target_only(subject, stop=[stop])
        assert reference.text() == text[: text.index(stop)]
        assert reference.finish_reason() == "stop"
        assert reference.tokens == longer.tokens[: len(reference.tokens)]
        most = subject.engine.info.max_drafts
        for plan in (right(longer.tokens, most), mixed(longer.tokens, most, subject.engine.info.n_vocab)):
            driven = await Driven().open(subject.engine, subject.body(stop=[stop]))
            await driven.run(plan)
            assert driven.tokens == reference.tokens, stop
            assert driven.text() == reference.text(), stop


@rule
async def right_drafts_save_steps(subject: Subject) -> None:
    """`StepDone.accepted`. The first step may verify none: vLLM's is the prompt's."""
    reference = await target_only(subject)
    driven = await Driven().open(subject.engine, subject.body())
    most = subject.engine.info.max_drafts
    await driven.run(right(reference.tokens, most))
    assert len(driven.steps) <= 2 + -(-LENGTH // (most + 1))
    for step in driven.steps[1:]:
        assert step.accepted == step.verified or step.ends
        assert step.verified


@rule
async def a_step_takes_max_drafts_and_no_more(subject: Subject) -> None:
    """`ModelInfo.max_drafts`; `Generation.step` raises ValueError for more, and the generation stays parked."""
    most = subject.engine.info.max_drafts
    reference = await target_only(subject)
    driven = await Driven().open(subject.engine, subject.body())
    for _ in range(2):  # before the first step, and after it
        refused = _raised(driven, ValueError, [subject.prompt[0]] * (most + 1))
        assert str(most) in str(refused), refused
        await driven.step(wrong(reference.tokens, most, subject.engine.info.n_vocab)(driven.tokens))
    await driven.run()
    assert driven.tokens == reference.tokens


@rule
async def drafts_outside_the_vocabulary_are_refused(subject: Subject) -> None:
    """`Generation.step` raises ValueError for them, and the generation stays parked."""
    n_vocab = subject.engine.info.n_vocab
    reference = await target_only(subject)
    driven = await Driven().open(subject.engine, subject.body())
    for token in (n_vocab, -1, 2**31 - 1):
        _raised(driven, ValueError, (token,))
        await driven.step()
        _raised(driven, ValueError, (reference.tokens[1], token))
    await driven.run(right(reference.tokens, 2))
    assert driven.tokens == reference.tokens


# When a step may be asked for.


def _raised(driven: Driven, kind: type[Exception], drafts: Sequence[int] = ()) -> Exception:
    try:
        driven.order(drafts)
    except kind as error:
        return error
    raise AssertionError(f"step({tuple(drafts)}) did not raise {kind.__name__}")


def _refuses(driven: Driven) -> bool:
    """In a callback, where nothing may be raised: is a step refused?"""
    try:
        driven.order()
    except RuntimeError:
        return True
    return False


@rule
async def steps_ahead_are_one_token_each(subject: Subject) -> None:
    """`Generation.step`: 1 + ahead StepDones follow, fewer when the answer ends."""
    reference = await target_only(subject)
    driven = await Driven().open(subject.engine, subject.body())
    steps = await driven.step((), 3)
    assert [step.verified for step in steps] == [0] * 4
    assert [step.tokens for step in steps] == [(token,) for token in reference.tokens[:4]]
    steps = await driven.step(reference.tokens[4:6], 2)
    assert [len(step.tokens) for step in steps] == [3, 1, 1]
    await asyncio.sleep(SILENCE_S)
    assert len(driven.tokens) == 9, "a step that nobody asked for"
    steps = await driven.step((), 2 * LENGTH)
    assert len(steps) == LENGTH - 9
    assert steps[-1].ends
    await driven.run()
    assert driven.tokens == reference.tokens


@rule
async def no_step_while_one_is_under_way(subject: Subject) -> None:
    """`Generation.step`: no other may be asked for before; RuntimeError, and the one under way goes on."""
    reference = await target_only(subject)
    driven = await Driven().open(subject.engine, subject.body())
    driven.order((), 1)
    _raised(driven, RuntimeError)
    await driven.until(lambda: len(driven.steps) == 2)
    await driven.run()
    assert driven.tokens == reference.tokens


@rule
async def a_step_may_be_asked_for_in_the_callback(subject: Subject) -> None:
    """`Deliver`: the last StepDone of a step is delivered when the next may be asked for, also before its payloads."""
    reference = await target_only(subject)
    driven = await Driven().open(subject.engine, subject.body())
    driven.on_step = lambda done: None if done.ends else driven.order(reference.tokens[len(driven.tokens) :][:2])
    driven.order()
    await driven.until(lambda: driven.ending is not None)
    driven.check()
    assert isinstance(driven.ending, Finished)
    assert (driven.tokens, driven.text()) == (reference.tokens, reference.text())


@rule
async def no_step_after_the_end(subject: Subject) -> None:
    """`StepDone.ends`, `Finished`, `Generation.abort`: RuntimeError for a step after any of them."""
    driven = await target_only(subject, max_tokens=2)
    _raised(driven, RuntimeError)
    driven.abort()
    _raised(driven, RuntimeError)
    aborted = await Driven().open(subject.engine, subject.body())
    aborted.abort()
    _raised(aborted, RuntimeError)
    for fields in ({"max_tokens": 2}, {"prompt": list(subject.ending), "ignore_eos": ..., "max_tokens": 200}):
        last = await Driven().open(subject.engine, subject.body(**fields))
        ends: list[bool] = []
        last.on_step = lambda done, last=last, ends=ends: ends.append(_refuses(last)) if done.ends else None
        await last.run(aheads=(15,))
        assert ends == [True], "in the callback of the last StepDone"


# Payloads.


@rule
async def payloads_are_openai_s(subject: Subject) -> None:
    """`Payload`: JSON of the OpenAI answer; the whole of it, or chunks and, where wanted, the usage."""
    streamed = await target_only(subject)
    counted = await target_only(subject, stream_options={"include_usage": True})
    whole = await target_only(subject, stream=False)
    for driven in (counted, whole):
        assert [payload.usage for payload in driven.payloads[:-1]] == [False] * (len(driven.payloads) - 1)
        assert driven.payloads[-1].usage
        usage = driven.bodies()[-1]["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (len(subject.prompt), LENGTH)
        assert (driven.tokens, driven.text()) == (streamed.tokens, streamed.text())
    assert len(whole.payloads) == 1
    assert not any(payload.usage for payload in streamed.payloads)
    assert {body["object"] for driven in (streamed, counted, whole) for body in driven.bodies()} == {"text_completion"}
    assert {body["model"] for body in streamed.bodies()} == {subject.engine.info.name}
    assert len({body["id"] for body in streamed.bodies()}) == 1
    assert counted.bodies()[-1]["choices"] == []


@rule
async def both_endpoints_are_served(subject: Subject) -> None:
    """`Endpoint`: chats as well as completions."""
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "Say it."}], "prompt": ...}
    answers = {}
    for stream in (True, False):
        driven = Driven(stream=stream)
        await driven.open(subject.engine, subject.body(**asked, stream=stream), Endpoint.CHAT_COMPLETIONS)
        await driven.run()
        answers[stream] = driven
    assert answers[True].tokens == answers[False].tokens
    assert answers[True].text() == answers[False].text()
    assert {body["object"] for body in answers[True].bodies()} == {"chat.completion.chunk"}
    assert [body["object"] for body in answers[False].bodies()] == ["chat.completion"]


# Several generations.


@rule
async def generations_are_independent(subject: Subject) -> None:
    """`Generation`: one request; what others do beside it changes nothing."""
    n_vocab, most = subject.engine.info.n_vocab, subject.engine.info.max_drafts
    asked: list[dict[str, Any]] = [{}, {"temperature": 1, "seed": 3}, {"temperature": 1, "seed": 4}]
    references = [await target_only(subject, **fields) for fields in asked]
    together = [await Driven().open(subject.engine, subject.body(**fields)) for fields in asked]
    async with asyncio.TaskGroup() as group:
        for number, (driven, reference) in enumerate(zip(together, references, strict=True)):
            group.create_task(driven.run(mixed(reference.tokens, most, n_vocab, number), (0, 1)))
    assert [driven.tokens for driven in together] == [reference.tokens for reference in references]
    assert [driven.text() for driven in together] == [reference.text() for reference in references]


@rule
async def an_abort_touches_nobody_else(subject: Subject) -> None:
    """`Generation.abort`: at once, nothing is delivered after it; harmless when repeated."""
    reference = await target_only(subject)
    stays = await Driven().open(subject.engine, subject.body())
    stepping = await Driven().open(subject.engine, subject.body())
    await stays.step()
    await stepping.step()
    stays.order((), 3)
    stepping.order(wrong(reference.tokens, 2, subject.engine.info.n_vocab)(stepping.tokens), 20)
    count = stepping.count()
    stepping.abort()
    stepping.abort()
    await stays.until(lambda: len(stays.tokens) == 5)
    parked = await Driven().open(subject.engine, subject.body())
    parked.abort()
    await stays.run()
    await asyncio.sleep(SILENCE_S)
    assert stays.tokens == reference.tokens
    for aborted in (stepping, parked):
        aborted.check()
        assert aborted.ending is None
    assert stepping.count() == count
    stays.abort()  # harmless when already over


@rule
async def an_abort_in_the_callback_is_the_last_word(subject: Subject) -> None:
    """`Generation.abort`: nothing is delivered after this call, not even that step's payloads."""
    for aborted_at in (1, 2):
        driven = await Driven().open(subject.engine, subject.body(max_tokens=2))
        at = aborted_at

        def abort(_: StepDone, driven: Driven = driven, at: int = at) -> None:
            if len(driven.steps) == at:
                driven.abort()

        driven.on_step = abort
        driven.order((), 1)
        await driven.until(lambda driven=driven, at=at: len(driven.steps) == at)  # type: ignore[misc]
        await asyncio.sleep(SILENCE_S)
        driven.check()
        assert len(driven.steps) == aborted_at


@rule
async def an_aborted_generation_gives_its_place_back(subject: Subject) -> None:
    """`Generation.abort`: let go of the request at once."""
    for _ in range(2 * (subject.max_running or 4)):
        driven = await Driven().open(subject.engine, subject.body())
        driven.order()
        driven.abort()
    assert len((await target_only(subject)).tokens) == LENGTH


# Going on with another engine's answer.


@rule
async def an_answer_can_be_taken_over(subject: Subject) -> None:
    """`continue_answer`, where offered: the tokens after those decided are those of the answer that had no break."""
    engine = subject.engine
    if not isinstance(engine, GoesOn):
        raise NotOffered("continue_answer")
    for fields in ({}, {"temperature": 1, "seed": 8}):
        reference = await target_only(subject, **fields)
        for count in (1, LENGTH // 2, LENGTH):
            decided = tuple(reference.tokens[:count])
            driven = Driven(decided=decided)
            driven.generation = await engine.continue_answer(
                Endpoint.COMPLETIONS, subject.body(**fields), reference.generation.opening, decided, driven.deliver
            )
            if driven.ending is None:
                await driven.run(right(reference.tokens, engine.info.max_drafts))
            assert isinstance(driven.ending, Finished)
            assert (driven.tokens, driven.text()) == (reference.tokens, reference.text())


# Closing.


@closing_rule
async def closing_breaks_what_runs(subject: Subject) -> None:
    """`Engine.aclose`: running generations get `Broken`; harmless when repeated, and nothing can be opened after it."""
    parked = await Driven().open(subject.engine, subject.body())
    stepping = await Driven().open(subject.engine, subject.body())
    over = await target_only(subject, max_tokens=1)
    aborted = await Driven().open(subject.engine, subject.body())
    aborted.abort()
    await parked.step()
    stepping.order((), LENGTH)
    async with asyncio.timeout(WAIT_S):
        await subject.engine.aclose()
        await subject.engine.aclose()
    for driven in (parked, stepping):
        await driven.until(lambda driven=driven: driven.ending is not None)  # type: ignore[misc]
        assert isinstance(driven.ending, Broken), driven.ending
        assert isinstance(driven.ending.error, ApiError)
        assert driven.ending.error.status >= 500
        _raised(driven, RuntimeError)
    counts = [driven.count() for driven in (parked, stepping, over, aborted)]
    assert (await refusal(subject.engine, subject.body())).status >= 500
    await asyncio.sleep(SILENCE_S)
    assert counts == [driven.count() for driven in (parked, stepping, over, aborted)]
    for driven in (parked, stepping, over, aborted):
        driven.check()
        driven.abort()


@closing_rule
async def closing_refuses_what_waits(subject: Subject) -> None:
    """`Engine.aclose`: a call of `open` that waits raises ApiError."""
    if subject.max_running is None:
        raise NotOffered("a number of places")
    taken = [await Driven().open(subject.engine, subject.body()) for _ in range(subject.max_running)]
    waiting = asyncio.create_task(refusal(subject.engine, subject.body()))
    await asyncio.sleep(SILENCE_S)
    async with asyncio.timeout(WAIT_S):
        await subject.engine.aclose()
        assert (await waiting).status >= 500
    assert all(isinstance(driven.ending, Broken) for driven in taken)


@closing_rule
async def an_idle_engine_closes(subject: Subject) -> None:
    """`Engine.aclose` of an engine that has done nothing."""
    async with asyncio.timeout(WAIT_S):
        await subject.engine.aclose()
        await subject.engine.aclose()
