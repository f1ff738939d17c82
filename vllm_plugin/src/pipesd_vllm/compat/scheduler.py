"""A vLLM scheduler that parks sessions between their rounds, for the synchronous and the asynchronous loop.

A session is an ordinary request that carries a park key. It is prefilled and its first token is sampled as usual. It
leaves `running` in the step that takes up the last of its round; when the output is there it is parked, its KV blocks
kept, until `verify` hands it the drafts of its next round. A parked session costs no scheduling. When KV blocks or
slots of the worker run out, the session parked longest loses its own; its next round begins as vLLM resumes any
preempted request.
"""

from __future__ import annotations

import math
import time
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.request import Request, RequestStatus

from pipesd_core.engine.rounds import fault
from pipesd_core.errors import ConfigError
from pipesd_vllm import compat, limits, park_keys
from pipesd_vllm.compat import lora
from pipesd_vllm.compat.orphan import end_with_parent
from pipesd_vllm.compat.outputs import with_times
from pipesd_vllm.parking import HOLDING, Session, SessionBook, Stage
from pipesd_vllm.rpc_coalescer import Order

OK = "ok"


class ParkingScheduler(AsyncScheduler):
    """Scheduler set by `--scheduler-cls`; lives in the engine core's process."""

    running: list[Request]
    max_num_active_reqs: int

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
        # Nobody drafts on this machine: no placeholders for drafts to come, and no padding of requests that wait for
        # one token to the rows of a drafted one.
        self.dynamic_sd_lookup = [0] * (self.max_num_running_reqs + 1)
        self._n_vocab = self.vllm_config.model_config.get_vocab_size()
        self._book = SessionBook()
        self._active = self.max_num_active_reqs
        # The V2 worker keeps the slot of every request that it has seen and that has neither ended nor been preempted.
        # Without a free one for a new request an assertion ends the engine.
        self._slots: int | None = self.max_num_running_reqs if self.use_v2_model_runner else None
        self._overtaken = 0
        """Rounds taken up while a request waited, since one was last let in before them."""
        self._evictions = 0
        self._steps = 0
        allocate = self.kv_cache_manager.allocate_slots

        def allocate_or_evict(request: Request, *args: Any, **kwargs: Any) -> Any:
            if request.status != RequestStatus.RUNNING:
                self._free_slot()
            while (blocks := allocate(request, *args, **kwargs)) is None and self._evict():
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
            "sessions": len(self._book),
            "parked": self._book.count(Stage.PARKED),
            "evicted": self._book.count(Stage.EVICTED),
            "evictions": self._evictions,
            "steps": self._steps,
        }

    def _verify(self, key: str, drafts: list[int], ahead: int, asked_at: float) -> str:
        wrong = fault(drafts, self.num_spec_tokens, self._n_vocab)
        if wrong is not None:
            return wrong
        session = self._book.of_key(key)
        if session is None or session.stage not in (Stage.PARKED, Stage.EVICTED):
            return "no such session is parked"
        session.order(drafts, ahead, asked_at)
        if session.stage is Stage.PARKED:
            self._book.move(session, Stage.READY)
        else:
            self._book.move(session, Stage.QUEUED)
            self.waiting.add_request(session.request)
        return OK

    # What vLLM calls.

    def add_request(self, request: Request) -> None:
        extra = _extra_args(request)
        key = extra.get(park_keys.KEY_ARG)
        if key is not None and park_keys.is_ours(key) and self._book.of_key(key) is None:
            ahead = extra.get(park_keys.AHEAD_ARG, 0)
            self._book.open(request.request_id, key, request, ahead, time.monotonic())
        super().add_request(request)

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        self._steps += 1
        self._take_up_rounds()
        if self._slots is not None:
            # Slots of parked sessions can be had; the others' are taken.
            taken = self._book.count(Stage.IN_FLIGHT, Stage.READY)
            self.max_num_active_reqs = min(self._active, self._slots - taken)
        return super().schedule(*args, **kwargs)

    def _take_up_rounds(self) -> None:
        """Have rounds run for which there is room. They overtake requests that wait, but no more than fill a step."""
        waiting = len(self.waiting) + len(self.kv_holding_waiting)
        room = self._active - len(self.running)
        rows: float = math.inf
        if not waiting:
            self._overtaken = 0
        elif room > 0 and self._overtaken >= self._active and self._few_others_run() and self._have_slot_for_waiting():
            # One try: a request that lacks KV blocks must not keep those from running who hold them.
            self._overtaken = 0
            room -= 1
            rows = self.max_num_scheduled_tokens // 2 - sum(1 + len(one.spec_token_ids) for one in self.running)
        for session in self._book.at(Stage.READY):
            if room <= 0:
                break
            if not lora.has_room(session.request, self.running, self.lora_config):
                continue
            room, rows = room - 1, rows - 1 - len(session.round.left)
            if rows < 0:
                break
            self._overtaken += bool(waiting)
            self._arm(session)
            self._book.move(session, Stage.QUEUED)
            self.running.append(session.request)

    def _few_others_run(self) -> bool:
        """Whether requests of no session have less than their half of the places in a step."""
        others = sum(self._book.get(request.request_id) is None for request in self.running)
        return others < max(self._active // 2, 1)

    def _have_slot_for_waiting(self) -> bool:
        """Whether a request that waits can have a slot. If it must, the last session with a round gives up its own."""
        if self._slots is None or self._book.count(Stage.IN_FLIGHT, Stage.READY) + len(self.running) < self._slots:
            return True
        if not (ready := self._book.at(Stage.READY)):
            return False
        self._preempt_request(ready[-1].request, time.monotonic())
        self.waiting.remove_request(ready[-1].request)  # vLLM has put it first
        self.waiting.add_request(ready[-1].request)
        self._book.move(ready[-1], Stage.QUEUED)
        self._evictions += 1
        return True

    def _arm(self, session: Session) -> None:
        request = session.request
        # Drafts past max_tokens would be computed for nothing: the target decides the last token anyway.
        room = request.max_tokens - request.num_output_tokens - 1
        drafts = list(session.round.left[: max(room, 0)])
        request.spec_token_ids = self.structured_output_manager.validate_tokens(request, drafts) if drafts else []
        session.owed = len(request.spec_token_ids)

    def _update_after_schedule(self, scheduler_output: Any) -> None:
        super()._update_after_schedule(scheduler_output)
        now = time.monotonic()
        leaving = set()
        for request_id in scheduler_output.num_scheduled_tokens:
            if (session := self._book.get(request_id)) is not None:
                drafts = len(scheduler_output.scheduled_spec_decode_tokens.get(request_id, ()))
                if not session.scheduled(drafts, session.request.is_prefill_chunk, now):
                    self._book.move(session, Stage.IN_FLIGHT)
                    leaving.add(request_id)
        if leaving:
            self.running = [request for request in self.running if request.request_id not in leaving]

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        stepped = {
            request_id: session
            for request_id in scheduler_output.num_scheduled_tokens
            if (session := self._book.get(request_id)) is not None
        }
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        now = time.monotonic()
        for client, of_client in outputs.items():
            times = {}
            for output in of_client.outputs:
                session = stepped.get(output.request_id)
                if session is not None and output.new_token_ids:
                    times[session.key] = session.stepped(output.new_token_ids, now)
                    self._place(session)
            if times:
                outputs[client] = with_times(of_client, times)
        for of_client in outputs.values():
            if of_client.scheduler_stats is not None:
                # vLLM has counted before; the core may sleep now, and this figure stand until it wakes up.
                busy = self._book.count(Stage.IN_FLIGHT, Stage.READY)
                of_client.scheduler_stats.num_running_reqs = len(self.running) + busy
        return outputs

    def _place(self, session: Session) -> None:
        """Put a session whose tokens have come where its round wants it."""
        request = session.request
        if session.stage is not Stage.IN_FLIGHT or request.is_finished() or request.num_in_flight_tokens:
            return  # in a free run, also one that was preempted: what is left of it is counted already
        if session.round.over:
            self._book.move(session, Stage.PARKED)
        else:
            session.count_anew()
            self._book.move(session, Stage.READY)

    def update_draft_token_ids(self, draft_token_ids: Any) -> None:
        """Ignore the proposer, which has no drafts: `_arm` has set them."""

    def update_draft_token_ids_in_output(self, draft_token_ids: Any, scheduler_output: Any) -> None:
        """Ignore the proposer here too: its answer would take the place of the drafts that a step carries."""

    def _free_request(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        self._book.close(request.request_id)
        return super()._free_request(request, *args, **kwargs)

    def _preempt_request(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super()._preempt_request(request, *args, **kwargs)
        if request.drop_stale_output and (session := self._book.get(request.request_id)) is not None:
            session.outputs_dropped()

    def _free_slot(self) -> None:
        """Have a free slot in the worker for a request that is about to be admitted."""
        while self._slots is not None and self._book.count(*HOLDING) + len(self.running) >= self._slots:
            if not self._evict():
                break  # `max_num_active_reqs` lets nothing in then

    def _evict(self) -> bool:
        """Take the KV blocks and the slot of the session that is parked longest; none of its output is in flight."""
        if (session := self._book.first(Stage.PARKED)) is None:
            return False
        self._preempt_request(session.request, time.monotonic())
        self.waiting.remove_request(session.request)
        self._book.move(session, Stage.EVICTED)
        self._evictions += 1
        return True

    def reset_prefix_cache(self, reset_running_requests: bool = False, reset_connector: bool = False) -> Any:
        if reset_running_requests:
            while self._evict():
                pass
            # Sessions with a round are in no queue either, and hold KV blocks: vLLM preempts what runs, and drops its
            # output in flight.
            for session in (*self._book.at(Stage.IN_FLIGHT), *self._book.at(Stage.READY)):
                self._book.move(session, Stage.QUEUED)
                self.running.append(session.request)
        return super().reset_prefix_cache(reset_running_requests, reset_connector)

    def has_finished_requests(self) -> bool:
        if self.finished_req_ids or self.connector is None:
            return bool(self.finished_req_ids)
        # vLLM takes every request that is in no queue for a finished one whose connector is not done.
        kept = self._book.count(*HOLDING, Stage.EVICTED)
        return bool(len(self.requests) > sum(self.get_request_counts()) + kept)

    def get_num_unfinished_requests(self) -> int:
        unfinished = int(super().get_num_unfinished_requests())
        if self.pause_state == PauseState.PAUSED_ALL:
            return unfinished
        return unfinished + self._book.count(Stage.READY)


def _extra_args(request: Request) -> dict[str, Any]:
    params = request.sampling_params
    return (params.extra_args if params is not None else None) or {}
