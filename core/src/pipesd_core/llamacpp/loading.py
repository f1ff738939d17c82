"""The lines in the log that say which model is being loaded, and when it is there: that may take minutes."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipesd_core.llamacpp.memory import size

log = logging.getLogger(__name__)


@contextmanager
def announced(model: Path) -> Iterator[None]:
    """Log that a model is loaded for the duration of the context; without an end where that fails."""
    try:
        log.info("loading %s (%s)", model, size(model.stat().st_size))
    except OSError:  # whoever loads it says why
        log.info("loading %s", model)
    began = time.monotonic()
    yield
    log.info("loaded %s in %.1f s", model, time.monotonic() - began)
