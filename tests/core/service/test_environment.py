from __future__ import annotations

import subprocess
import sys

import pytest

from pipesd_core.errors import ConfigError
from pipesd_core.service import environment, settings


@pytest.mark.parametrize("name", ["WEBSOCKETS_MAX_FRAGMENTS", "WEBSOCKETS_BACKOFF_FACTOR"])
def test_numbers_that_the_websocket_library_could_not_read_are_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"variable {name}, .* must be a number, but is '4k': correct or unset it"):
        environment.check({name: "4k"})
    environment.check({name: "4", "WEBSOCKETS_USER_AGENT": "any text"})


def test_every_number_that_the_library_reads_is_of_a_family_that_is_checked() -> None:
    """Its modules are imported with a mapping that notes what is asked for."""
    code = """
import importlib, os, pkgutil, warnings
warnings.simplefilter("ignore")
asked = set()
class Noting(dict):
    def get(self, name, default=None):
        asked.add(name)
        return super().get(name, default)
os.environ = Noting(os.environ)
import websockets
for module in pkgutil.walk_packages(websockets.__path__, "websockets."):
    if "trio" not in module.name and not module.name.endswith(("__main__", "cli")):
        try:
            importlib.import_module(module.name)
        except ImportError:
            pass
print(*sorted(name for name in asked if name.startswith("WEBSOCKETS_")))
"""
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert "WEBSOCKETS_MAX_LINE_LENGTH" in names.split()
    for name in {*names.split()} - {"WEBSOCKETS_USER_AGENT", "WEBSOCKETS_SERVER"}:
        with pytest.raises(ConfigError):
            environment.check({name: "x"})


def test_it_is_checked_with_the_settings() -> None:
    from pipesd_agent.config import PROGRAM, AgentConfig

    with pytest.raises(ConfigError, match=r"WEBSOCKETS_MAX_BODY_SIZE"):
        settings.load(AgentConfig, PROGRAM, {}, {"WEBSOCKETS_MAX_BODY_SIZE": "1MiB"}, None)
