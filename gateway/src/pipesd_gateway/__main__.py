"""`python -m pipesd_gateway`."""

import sys

from pipesd_gateway.cli import main

sys.exit(main())
