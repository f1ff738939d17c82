"""HAProxy before several vLLM servers, configured as docs/vllm.md says."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from harness import ROOT, free_port, wait_until

PAGE = ROOT / "docs" / "vllm.md"


def needs_haproxy() -> None:
    """Skip where there is no HAProxy; but continuous integration installs it, or says that it cannot (.ci/run)."""
    if shutil.which("haproxy") is None:
        said = "PIPESD_TESTS_WITHOUT_HAPROXY" in os.environ
        assert said or os.environ.get("CI") != "true" or os.geteuid() != 0, "haproxy is missing: see .ci/run"
        pytest.skip("needs haproxy (apt-get install haproxy)")


def configuration(port: int, servers: list[str]) -> str:
    """The page's, for these servers, of which the first one that is up gets everything."""
    found = re.search(r"```haproxy\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    text, binds = re.subn(r"bind \S+", f"bind 127.0.0.1:{port}", found[1])
    text, balances = re.subn(r"balance leastconn", "balance first", text)
    assert (binds, balances) == (1, 1)
    kept = [line for line in text.splitlines() if not line.strip().startswith("server ")]
    assert len(kept) == len(text.splitlines()) - 2
    return "\n".join([*kept, *(f"    server s{i} {address}" for i, address in enumerate(servers)), ""])


@contextlib.contextmanager
def balancer(directory: Path, *roots: str) -> Iterator[str]:
    """The address of a balancer before these servers."""
    port = free_port()
    file = directory / "haproxy.cfg"
    file.write_text(configuration(port, [root.removeprefix("http://") for root in roots]))
    with (directory / "haproxy.log").open("wb") as log:
        # -db: in the foreground, so that it ends with us.
        process = subprocess.Popen(
            ["haproxy", "-db", "-f", str(file)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    root = f"http://127.0.0.1:{port}"

    def up() -> bool:
        assert process.poll() is None, (directory / "haproxy.log").read_text()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{root}/health", timeout=5).status_code == 200
        return False

    try:
        wait_until(up)
        yield root
    finally:
        process.kill()
        process.wait(10)
