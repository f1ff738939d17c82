"""Put the bed to work in every Python process that has PIPESD_V2_BED=1 and this folder on PYTHONPATH."""

from __future__ import annotations

import os
from importlib.util import find_spec

if os.environ.get("PIPESD_V2_BED") and find_spec("triton") is not None:
    import v2_bed

    v2_bed.install()
