"""`python -m bench.evaluation`."""

import sys

from bench.evaluation.old import main

sys.exit(main())
