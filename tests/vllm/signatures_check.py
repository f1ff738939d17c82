"""Run under .venv-vllm's python by test_vllm_compat.py: what was read of vLLM's files is what Python says of them."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path

from pipesd_core.service.internals import find

READ: dict[str, str | None] = json.loads(Path(sys.argv[1]).read_text("utf-8"))["signatures"]

if __name__ == "__main__":
    for where, names in READ.items():
        found = find(where)
        if names is not None:
            assert ",".join(inspect.signature(found).parameters) == names, where
    print(f"{len(READ)} signatures as read")
