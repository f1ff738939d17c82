"""vLLM's engine core around the parking scheduler, with a target that is a formula: no model, no weights.

`Engine` runs the core's synchronous or asynchronous loop. Its worker keeps what the real ones keep (texts, counts, KV
blocks and, on V2, slots), and objects to whatever the real ones would die of or compute wrongly.
"""

from __future__ import annotations

import functools
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from msgspec import Struct
from vllm.config import CacheConfig, ModelConfig, ParallelConfig, SchedulerConfig, SpeculativeConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from pipesd_core.engine.rounds import Round
from pipesd_vllm import compat, park_keys
from pipesd_vllm.compat.scheduler import ParkingScheduler
from pipesd_vllm.parking import HOLDING, Stage

MODEL: Final = str(Path(__file__).parents[2] / "examples" / "demo_pair" / "target")
BLOCK: Final = 4
DRAFTS: Final = 4
CONTEXT: Final = 64
NEVER: Final = 9
"""A token that the target never draws, and that the scripted grammar does not admit."""
STOPS: Final = tuple(token for token in range(4096) if token % 97 == 0)

compat.check()
compat.check = lambda *_: True
park_keys.ensure_secret()
init_none_hash(sha256)


class Kind(Struct, frozen=True):
    """A runner of vLLM's and a loop of its engine core."""

    v2: bool
    queue: int

    @property
    def name(self) -> str:
        return f"{'V2' if self.v2 else 'V1'} {'asynchronous' if self.queue > 1 else 'synchronous'}"


KINDS: Final = (Kind(v2=False, queue=1), Kind(v2=True, queue=1), Kind(v2=True, queue=2))
"""What there is: V1 has no asynchronous loop with a proposer of one's own."""


def next_token(text: Sequence[int]) -> int:
    """The target's choice behind a text."""
    return 10 + (text[-1] * 31 + len(text) * 7) % 4000


def answer(prompt: Sequence[int], most: int, stops: Iterable[int]) -> list[int]:
    """What the target writes by itself."""
    text, ends = list(prompt), set(stops)
    while len(text) - len(prompt) < most and len(text) < CONTEXT:
        text.append(next_token(text))
        if text[-1] in ends:
            break
    return text[len(prompt) :]


class Asked(Struct, eq=False):
    """A request, and what of it has come. An ordinary one has no key, and no round as an edge sees it."""

    name: str
    key: str
    expected: list[int]
    round: Round | None
    got: list[int] = []
    over: bool = False
    rounds: int = 0


class Engine:
    """An engine core. queue: how many steps may be under way at once."""

    def __init__(
        self,
        kind: Kind,
        blocks: int = 400,
        slots: int = 4,
        budget: int = 128,
        active: int | None = None,
        caching: bool = False,
    ) -> None:
        self.kind = kind
        config = _config(kind, slots, budget, active, caching)
        config.cache_config.num_gpu_blocks = blocks
        manager = StructuredOutputManager(config)
        manager.validate_tokens = _conforming
        attention = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
        self.scheduler = ParkingScheduler(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(blocks, [], [KVCacheGroupSpec(["layer"], attention)]),
            structured_output_manager=manager,
            block_size=BLOCK,
            log_stats=True,
        )
        self._caching = caching
        self.free_blocks = self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
        self._slots = slots
        self._budget = budget
        self.counts = Counter[str]()
        """Evictions, slots given up, drafts left over, preemptions."""
        self._count_preemptions()
        self._under_way: deque[tuple[Any, ModelRunnerOutput]] = deque()
        self._aborts: list[str] = []
        self._worker: dict[str, _State] = {}
        self.asked: dict[str, Asked] = {}
        self.steps: list[dict[str, tuple[int, tuple[int, ...]]]] = []
        """Of each step that computed something: each request's tokens, and its drafts."""
        self.running_shown: int | None = None
        """The last `num_running_reqs` of the statistics."""

    def _count_preemptions(self) -> None:
        preempt = self.scheduler._preempt_request

        def counted(request: Any, *args: Any, **kwargs: Any) -> None:
            session = self.scheduler._book.get(request.request_id)
            if session is None:
                self.counts["preempted, ordinary"] += 1
            elif session.stage is Stage.PARKED:
                assert not request.num_in_flight_tokens, "a session in flight loses its KV blocks"
                needs_slot = len(self._slots_taken()) >= self._slots
                self.counts["slot given up" if self.kind.v2 and needs_slot else "eviction"] += 1
            elif not kwargs.get("drop_stale_output"):
                self.counts["preempted with an output in flight" if request.num_in_flight_tokens else "preempted"] += 1
            preempt(request, *args, **kwargs)

        setattr(self.scheduler, "_preempt_request", counted)  # noqa: B010

    def _slots_taken(self) -> list[str]:
        """Requests that have a slot in the worker, or are about to have one."""
        book = self.scheduler._book
        held = [session.request_id for stage in HOLDING for session in book.at(stage)]
        return held + [request.request_id for request in self.scheduler.running]

    # Requests.

    def add(
        self, name: str, prompt: Sequence[int], most: int = 20, ahead: int | None = 0, stops: Sequence[int] = ()
    ) -> Asked:
        """Queue a session, or with `ahead` None an ordinary request."""
        key = "" if ahead is None else park_keys.new_key()
        extra = {park_keys.KEY_ARG: key, park_keys.AHEAD_ARG: ahead} if key else None
        params = SamplingParams(max_tokens=most, ignore_eos=True, stop_token_ids=list(stops), extra_args=extra)
        params.update_from_generation_config({}, None)
        request = Request(
            request_id=name,
            prompt_token_ids=list(prompt),
            sampling_params=params,
            pooling_params=None,
            block_hasher=get_request_block_hasher(BLOCK, sha256) if self._caching else None,
        )
        round_ = None if ahead is None else Round((), ahead)
        asked = Asked(name, key, answer(prompt, most, stops), round_, [])
        self.asked[name] = asked
        self.scheduler.add_request(request)
        return asked

    def live(self) -> list[Asked]:
        return [asked for asked in self.asked.values() if not asked.over]

    def waiting_for_edge(self) -> list[Asked]:
        """Sessions whose round is over, as their edges see it."""
        return [asked for asked in self.live() if asked.round is not None and asked.round.over]

    def stage(self, asked: Asked) -> Stage | None:
        """The stage of a session that the scheduler knows."""
        session = self.scheduler._book.get(asked.name)
        return None if session is None else session.stage

    def order(self, asked: Asked, drafts: Sequence[int] = (), ahead: int = 0) -> None:
        """Start a session's next round. The scheduler has to take it whenever the round before is over."""
        assert asked.round is not None
        assert asked.round.over
        result = self.scheduler.verify([(asked.key, list(drafts), ahead, time.monotonic())])
        assert result == ["ok"], (asked.name, result)
        asked.round = Round(drafts, ahead)
        asked.rounds += 1

    def right(self, asked: Asked, count: int) -> list[int]:
        """What the target writes next."""
        return asked.expected[len(asked.got) : len(asked.got) + count]

    def abort(self, asked: Asked) -> None:
        """End a request between two steps."""
        asked.over = True
        self.scheduler.finish_requests(asked.name, RequestStatus.FINISHED_ABORTED)

    def abort_in_step(self, asked: Asked) -> None:
        """End a request while a step is computed: the core does so before it looks at the step's output."""
        asked.over = True
        self._aborts.append(asked.name)

    def reset(self) -> None:
        """`/reset_prefix_cache` with `reset_running_requests`."""
        assert self.scheduler.reset_prefix_cache(reset_running_requests=True)

    def pause(self) -> None:
        self.scheduler.set_pause_state(PauseState.PAUSED_ALL)

    def resume(self) -> None:
        self.scheduler.set_pause_state(PauseState.UNPAUSED)

    @property
    def has_work(self) -> bool:
        """Whether the core's loop takes a step, or sleeps until a request or a call comes."""
        return bool(self.scheduler.has_requests() or self._under_way)

    # The loops.

    def step(self) -> None:
        """One turn of `EngineCore.step` or `step_with_batch_queue`."""
        if self.scheduler.has_requests():
            output = self.scheduler.schedule()
            computes = output.total_num_scheduled_tokens > 0
            self._under_way.appendleft((output, self._compute(output)))
            if len(self._under_way) < self.kind.queue and (computes or self.scheduler.has_requests()):
                return
        if not self._under_way:
            return
        output, made = self._under_way.pop()
        if self._aborts:
            self.scheduler.finish_requests(self._aborts, RequestStatus.FINISHED_ABORTED)
            self._aborts = []
        outputs = self.scheduler.update_from_output(output, made)
        for of_client in outputs.values():
            if of_client.scheduler_stats is not None:
                self.running_shown = of_client.scheduler_stats.num_running_reqs
                busy = [one for one in self._slots_taken() if one not in self.parked()]
                assert self.running_shown == len(busy), "the gauge is not true"
            times = getattr(of_client, "step_times", None) or {}
            for one in of_client.outputs:
                assert one.kv_transfer_params is None, "a client may see that"
                key = self.asked[one.request_id].key
                assert (key in times) == bool(key and one.new_token_ids)
                assert all(0 <= time < 600_000_000 for time in times.get(key, ()))
                self._received(one)

    def run(self, most: int = 200) -> None:
        """Steps until the core would sleep."""
        for _ in range(most):
            if not self.has_work:
                return
            self.step()
        raise AssertionError(f"still at work after {most} steps: {self.describe()}")

    def parked(self) -> list[str]:
        """Sessions that are parked."""
        return [session.request_id for session in self.scheduler._book.at(Stage.PARKED)]

    def held_by_worker(self) -> list[str]:
        """Requests that the worker still keeps."""
        return list(self._worker)

    def describe(self) -> str:
        stages = {stage.name: [one.request_id for one in self.scheduler._book.at(stage)] for stage in Stage}
        queues = ([one.request_id for one in queue] for queue in (self.scheduler.running, self.scheduler.waiting))
        return f"{self.kind.name}: {stages}, running and waiting {list(queues)}"

    def _received(self, output: Any) -> None:
        asked = self.asked[output.request_id]
        if asked.over:
            return
        asked.got += output.new_token_ids
        assert asked.got == asked.expected[: len(asked.got)], (asked.name, asked.got, asked.expected)
        asked.over = output.finish_reason is not None
        if asked.over:
            assert asked.got == asked.expected
        if asked.round is not None:
            asked.round.take(output.new_token_ids)

    # The worker.

    def _compute(self, output: Any) -> ModelRunnerOutput:
        for gone in (*output.finished_req_ids, *(output.preempted_req_ids or ())):
            self._worker.pop(gone, None)
        for new in output.scheduled_new_reqs:
            text = list((new.prefill_token_ids if self.kind.v2 else None) or new.prompt_token_ids)
            self._worker[new.req_id] = _State(text, new.num_computed_tokens, list(new.block_ids[0]))
        if self.kind.v2:
            assert len(self._worker) <= self._slots, "the worker is out of slots"
        cached = output.scheduled_cached_reqs
        for name, blocks, computed in zip(
            cached.req_ids, cached.new_block_ids, cached.num_computed_tokens, strict=True
        ):
            if name in cached.resumed_req_ids:
                assert not self.kind.v2, "V2 has no resumed requests: they come as new ones"
                self._worker[name] = _State(list(cached.all_token_ids[name]), computed, list(blocks[0]))
            elif blocks is not None:
                self._worker[name].blocks += blocks[0]
            if self.kind.queue == 1:
                assert self._worker[name].computed == computed
        names = list(output.num_scheduled_tokens)
        assert len(names) <= self._slots
        assert output.total_num_scheduled_tokens <= self._budget
        if names:
            self.steps.append(
                {name: (count, tuple(output.scheduled_spec_decode_tokens.get(name, ())))
                 for name, count in output.num_scheduled_tokens.items()}
            )  # fmt: skip
        for name in names:
            session = self.scheduler._book.get(name)
            self.counts["drafts left over"] += session is not None and len(self.steps[-1][name][1]) < len(
                session.round.left
            )
        tokens = [self._tokens(name, *self.steps[-1][name]) for name in names]
        if not self._caching:
            held = [block for state in self._worker.values() for block in state.blocks]
            assert len(held) == len(set(held)), "two requests write to one KV block"
        return ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=tokens,
            logprobs=None,
            prompt_logprobs_dict={},
            pooler_output=[],
        )

    def _tokens(self, name: str, count: int, drafts: Sequence[int]) -> list[int]:
        """The tokens that the target draws for a request in a step."""
        state = self._worker[name]
        assert all(0 <= draft != NEVER for draft in drafts), drafts
        assert len(drafts) <= DRAFTS
        text, end = state.text, state.computed + count - len(drafts)
        assert state.computed + count <= len(state.blocks) * BLOCK, "a token has no KV block"
        if end < len(text):
            assert not drafts
            state.computed = end
            return []
        assert end == len(text), (name, end, len(text))
        new = [next_token(text)]
        for draft in drafts:
            if draft != new[-1]:
                break
            new.append(next_token([*text, *new]))
        state.computed = end + len(new) - 1
        text += new
        return list(new)


class _State(Struct, eq=False):
    """What a worker keeps of a request."""

    text: list[int]
    computed: int
    blocks: list[int]


def _conforming(_request: Any, tokens: Sequence[int]) -> list[int]:
    """The beginning of some drafts that a grammar admits."""
    kept = list(tokens)
    return kept[: kept.index(NEVER)] if NEVER in kept else kept


@functools.cache
def _parts() -> tuple[ModelConfig, SpeculativeConfig]:
    model = ModelConfig(MODEL, dtype="float32", max_model_len=CONTEXT)
    speculative = SpeculativeConfig(
        method="ngram_gpu",
        num_speculative_tokens=DRAFTS,
        target_model_config=model,
        target_parallel_config=ParallelConfig(),
    )
    return model, speculative


class _Config(VllmConfig):  # type: ignore[misc]
    """A configuration of a runner that this machine need not be able to run."""

    v2 = False
    use_v2_model_runner = property(lambda self: self.v2)


@functools.cache
def _config(kind: Kind, slots: int, budget: int, active: int | None, caching: bool) -> Any:
    model, speculative = _parts()
    config = _Config(
        model_config=model,
        scheduler_config=SchedulerConfig(
            max_num_seqs=slots,
            max_num_active_seqs=active,
            max_num_batched_tokens=budget,
            max_model_len=CONTEXT,
            enable_chunked_prefill=True,
            is_encoder_decoder=False,
            async_scheduling=False,
        ),
        cache_config=CacheConfig(block_size=BLOCK, enable_prefix_caching=caching),
        speculative_config=speculative,
    )
    config.v2, config.scheduler_config.async_scheduling = kind.v2, kind.queue > 1
    return config
