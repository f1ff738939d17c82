"""A vLLM scheduler that parks sessions between their rounds.

A session is an ordinary request that carries a park key. It is prefilled and its first token is sampled as usual; then
it is taken out of `running`, its KV blocks kept, until `verify` hands it the drafts of its next round. A parked session
costs no scheduling. When blocks run out, the session parked longest loses its own; its next round begins as vLLM
resumes any preempted request.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any

from msgspec import Struct
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from pipesd_core.engine.rounds import Round, fault
from pipesd_core.errors import ConfigError
from pipesd_vllm import compat, limits, park_keys
from pipesd_vllm.compat import lora
from pipesd_vllm.compat.orphan import end_with_parent
from pipesd_vllm.rpc_coalescer import Order

OK = "ok"


class _Session(Struct, eq=False):
    """A session's request and round, with times (monotonic).

    since: when its round was asked for, or its last token came; begun: when a step took it up.
    """

    request: Request
    round: Round
    since: float
    begun: float | None = None


class ParkingScheduler(Scheduler):
    """Scheduler set by `--scheduler-cls`; lives in the engine core's process."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        compat.check()
        end_with_parent()
        super().__init__(*args, **kwargs)
        parallel = self.vllm_config.parallel_config
        for name, why in (
            ("data_parallel_size", limits.NO_DATA_PARALLEL),
            ("pipeline_parallel_size", limits.NO_PIPELINE_PARALLEL),
        ):
            if (value := getattr(parallel, name)) > 1:
                raise ConfigError(f"{name} must be 1 with pipesd-vllm, but is {value}: {why}")
        if self.num_spec_tokens < 1:
            raise ConfigError("the parking scheduler needs a speculative configuration; start with `pipesd-vllm serve`")
        self._n_vocab = self.vllm_config.model_config.get_vocab_size()
        self._sessions: dict[str, _Session] = {}
        """Sessions by request id."""
        self._request_ids: dict[str, str] = {}
        """Request ids by park key."""
        self._parked: OrderedDict[str, Request] = OrderedDict()
        """Parked requests: KV blocks kept, in no queue; longest parked first."""
        self._evicted: dict[str, Request] = {}
        """Parked requests without KV blocks: PREEMPTED, in no queue."""
        self._ready: OrderedDict[str, Request] = OrderedDict()
        """Requests whose round has come, and that wait for room in `running`."""
        self._evictions = 0
        self._steps = 0
        allocate = self.kv_cache_manager.allocate_slots

        def allocate_or_evict(*args: Any, **kwargs: Any) -> Any:
            while (blocks := allocate(*args, **kwargs)) is None and self._evict():
                pass
            return blocks

        self.kv_cache_manager.allocate_slots = allocate_or_evict

    # Called through `EngineCore`, between steps.

    def verify(self, orders: list[Order]) -> list[str]:
        """Start the next round of each session. Returns "ok" or what is wrong, for each."""
        return [self._verify(*order) for order in orders]

    def pipesd_stats(self) -> dict[str, int]:
        """Figures for the metrics."""
        return {
            "sessions": len(self._sessions),
            "parked": len(self._parked),
            "evicted": len(self._evicted),
            "evictions": self._evictions,
            "steps": self._steps,
        }

    def _verify(self, key: str, drafts: list[int], ahead: int, asked_at: float) -> str:
        wrong = fault(drafts, self.num_spec_tokens, self._n_vocab)
        if wrong is not None:
            return wrong
        request_id = self._request_ids.get(key, "")
        if (request := self._parked.pop(request_id, None)) is not None:
            self._ready[request_id] = request
        elif (request := self._evicted.pop(request_id, None)) is not None:
            self.waiting.add_request(request)
        else:
            return "no such session is parked"
        session = self._sessions[request_id]
        session.round, session.since = Round(drafts, ahead), asked_at
        return OK

    # What vLLM calls.

    def add_request(self, request: Request) -> None:
        extra = _extra_args(request)
        key = extra.get(park_keys.KEY_ARG)
        if key is not None and park_keys.is_ours(key) and key not in self._request_ids:
            self._request_ids[key] = request.request_id
            round_ = Round((), extra.get(park_keys.AHEAD_ARG, 0))
            self._sessions[request.request_id] = _Session(request, round_, time.monotonic())
        super().add_request(request)

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        self._steps += 1
        for request_id, request in list(self._ready.items()):
            if len(self.running) >= self.max_num_running_reqs:
                break
            if not lora.has_room(request, self.running, self.lora_config):
                continue
            del self._ready[request_id]
            self._arm(request, self._sessions[request_id].round)
            self.running.append(request)
        scheduled = super().schedule(*args, **kwargs)
        now = time.monotonic()
        for request_id in scheduled.num_scheduled_tokens:
            session = self._sessions.get(request_id)
            if session is not None and session.begun is None:
                session.begun = now
        return scheduled

    def _arm(self, request: Request, round_: Round) -> None:
        # Drafts past max_tokens would be computed for nothing: the target decides the last token anyway.
        room = request.max_tokens - request.num_output_tokens - 1
        drafts = list(round_.left[: max(room, 0)])
        request.spec_token_ids = self.structured_output_manager.validate_tokens(request, drafts) if drafts else []

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        stepped = {
            request_id: session
            for request_id in scheduler_output.num_scheduled_tokens
            if (session := self._sessions.get(request_id)) is not None
        }
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        if stepped:
            now = time.monotonic()
            for of_client in outputs.values():
                for output in of_client.outputs:
                    session = stepped.get(output.request_id)
                    if session is not None and output.new_token_ids:
                        self._stepped(session, output, now)
        return outputs

    def _stepped(self, session: _Session, output: Any, now: float) -> None:
        """Take the tokens that the target has decided of a session."""
        begun = now if session.begun is None else session.begun
        times = [int(1e6 * (begun - session.since)), int(1e6 * (now - begun))]
        output.kv_transfer_params = (output.kv_transfer_params or {}) | {park_keys.TIME_PARAM: times}
        session.since, session.begun = now, None
        session.round.take(output.new_token_ids)
        request = session.request
        running = request.status == RequestStatus.RUNNING
        if request.is_finished() or (not running and not session.round.over):
            return  # a preempted one goes on with its round when it is resumed
        if not session.round.over:
            self._arm(request, session.round)
        elif running:
            request.spec_token_ids = []
            self.running.remove(request)
            self._parked[request.request_id] = request
        else:
            self.waiting.remove_request(request)
            self._evicted[request.request_id] = request

    def update_draft_token_ids(self, draft_token_ids: Any) -> None:
        """Ignore the proposer, which has no drafts: `_arm` has set them."""

    def _free_request(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        request_id = request.request_id
        for where in (self._parked, self._evicted, self._ready):
            where.pop(request_id, None)
        if self._sessions.pop(request_id, None) is not None:
            del self._request_ids[_extra_args(request)[park_keys.KEY_ARG]]
        return super()._free_request(request, *args, **kwargs)

    def _evict(self) -> bool:
        if not self._parked:
            return False
        request_id, request = self._parked.popitem(last=False)
        self._preempt_request(request, time.monotonic())
        self.waiting.remove_request(request)
        self._evicted[request_id] = request
        self._evictions += 1
        return True

    def reset_prefix_cache(self, reset_running_requests: bool = False, reset_connector: bool = False) -> Any:
        while reset_running_requests and self._evict():
            pass
        return super().reset_prefix_cache(reset_running_requests, reset_connector)

    def has_finished_requests(self) -> bool:
        if self.finished_req_ids or self.connector is None:
            return bool(self.finished_req_ids)
        # vLLM takes every request that is in no queue for a finished one whose connector is not done.
        kept = len(self._parked) + len(self._evicted) + len(self._ready)
        return bool(len(self.requests) > sum(self.get_request_counts()) + kept)

    def get_num_unfinished_requests(self) -> int:
        return int(super().get_num_unfinished_requests()) + len(self._ready)


def _extra_args(request: Request) -> dict[str, Any]:
    params = request.sampling_params
    return (params.extra_args if params is not None else None) or {}
