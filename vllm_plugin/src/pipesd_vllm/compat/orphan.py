"""The engine core's end where its API server has died: vLLM's own waits for requests for ever, with all its memory.

A worker ends with its engine core by itself.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from multiprocessing.process import BaseProcess
from typing import Final

log = logging.getLogger(__name__)

END_WITHIN_S: Final = 15
"""Time for an orphaned engine core to end in order; then the kernel ends it."""


def end_with_parent() -> None:
    """Have this process end when the one that started it has. Does nothing in a process that is nobody's child."""
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_wait_for_end, args=(parent,), name="pipesd-parent", daemon=True).start()


def _wait_for_end(parent: BaseProcess) -> None:
    parent.join()
    log.warning("the API server is gone: the engine core ends")
    signal.alarm(END_WITHIN_S)  # nobody handles SIGALRM: it ends a process that hangs in its own end too
    os.kill(os.getpid(), signal.SIGTERM)
