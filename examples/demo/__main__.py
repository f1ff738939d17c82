"""`python -m examples.demo`."""

from __future__ import annotations

import sys

from pipesd_core.service.program import run


def main() -> int:
    # Imported here: Ctrl-C is no traceback while the packages load.
    from examples.demo import command

    return command.main()


if __name__ == "__main__":
    sys.exit(run("demo", main))
