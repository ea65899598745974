"""`python -m tests.local_start OLLAMA LM_STUDIO`: the server, which looks for model servers at these addresses."""

from __future__ import annotations

import sys

import uvloop

from twin_sio.config import Settings
from twin_sio.runtime.local_models import LocalModels
from twin_sio.runtime.serve import serve

if __name__ == "__main__":
    models = LocalModels(*sys.argv[1:])
    sys.exit(uvloop.run(serve(Settings.from_environment(), lambda line: print(line, flush=True), models)))
