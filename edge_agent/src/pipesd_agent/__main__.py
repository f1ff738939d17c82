"""`python -m pipesd_agent`, and the program `pipesd-agent`.

Ctrl-C while the modules load, and at the very end, ends the process as any other one; `program.run` is in between.
"""

import signal
import sys

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from pipesd_agent.cli import main

if __name__ == "__main__":
    sys.exit(main())
