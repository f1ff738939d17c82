"""An agent on a slow device: the real one, with a drafter that takes a floor for each token.

    python -m bench.proving.real.slow_agent FLOOR_MS CONFIG.toml

CONFIG.toml: of `pipesd-agent start`, with a draft model. The agent itself knows nothing of floors.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from pipesd_agent.api.app import create_app
from pipesd_agent.build import make_agent
from pipesd_agent.config import AgentConfig, load
from pipesd_agent.drafting.drafter import AnswerForm, Drafter, DraftToken, NoDraft
from pipesd_core.sampling.params import SamplingParams
from pipesd_core.service.program import listen, run_program
from pipesd_core.service.server import Server


class Floored:
    """A drafter whose forwards take `floor_s` at least where they draft, feeding included. Implements `Drafter`."""

    def __init__(self, drafter: Drafter, floor_s: float) -> None:
        self._drafter = drafter
        self._floor_s = floor_s
        self._stopped = threading.Event()
        self.capacity = drafter.capacity
        self.max_context = drafter.max_context
        self.fingerprint = drafter.fingerprint
        self.n_vocab = drafter.n_vocab

    def open(self, lane: int, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        self._drafter.open(lane, prompt_ids, params)

    def constrain(self, lane: int, form: AnswerForm) -> None:
        self._drafter.constrain(lane, form)

    def close(self, lane: int) -> None:
        self._drafter.close(lane)

    def extend(self, lane: int, ids: Sequence[int]) -> None:
        self._drafter.extend(lane, ids)

    def truncate(self, lane: int, length: int) -> None:
        self._drafter.truncate(lane, length)

    def behind(self, lane: int) -> bool:
        return self._drafter.behind(lane)

    def draft(self, lanes: Sequence[int], feed: Sequence[int] = ()) -> list[DraftToken | NoDraft]:
        """One that is stopped while it sleeps has its tokens already: whoever stopped it does not want them."""
        self._stopped.clear()
        due = time.monotonic() + self._floor_s
        drafts = self._drafter.draft(lanes, feed)
        if any(isinstance(draft, DraftToken) for draft in drafts):
            self._stopped.wait(due - time.monotonic())
        return drafts

    def stop(self) -> None:
        self._stopped.set()
        self._drafter.stop()

    def release(self) -> None:
        self._drafter.release()


async def serve(config: AgentConfig, floor_s: float) -> None:
    """Until SIGTERM."""
    drafter: Drafter | None = None
    if config.mode != "cloud":
        from pipesd_agent.drafting.llama import LlamaDrafter  # the floor alone needs no llama.cpp

        assert config.draft_model is not None, "the configuration names no draft_model"
        model = LlamaDrafter(config.draft_model, capacity=config.capacity, n_ctx_seq=config.context)
        drafter = Floored(model, floor_s)
    listener = listen(config.host, config.port)
    agent = make_agent(config, drafter)
    await Server(create_app(agent), agent.aclose, log_level=config.log_level).run_on(listener)


def main() -> int:
    floor_ms, file = sys.argv[1:]
    config = load({}, {}, Path(file))
    return run_program("slow agent", config.log_level, serve(config, float(floor_ms) / 1000), config.log_format)


if __name__ == "__main__":
    sys.exit(main())
