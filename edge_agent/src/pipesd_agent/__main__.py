"""`python -m pipesd_agent`."""

import sys

from pipesd_agent.cli import main

sys.exit(main())
