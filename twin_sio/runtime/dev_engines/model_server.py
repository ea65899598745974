"""The small model, served over the OpenAI API: a process of its own."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Sequence

from twin_sio.runtime.dev_engines.engines import (
    MODEL_NAME,
    MODEL_SLOT_TOKENS,
    MODEL_SLOTS,
)


def _serve_model(file: str, port: int) -> None:
    """Serve the weights in `file` until a signal ends the process."""
    import xllamacpp  # a native library of 34 MB: only this process loads it

    params = xllamacpp.CommonParams()
    params.model.path = file
    params.model_alias = {MODEL_NAME}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = MODEL_SLOTS
    params.n_ctx = MODEL_SLOTS * MODEL_SLOT_TOKENS  # shared out among the slots
    # Its threads wait for each other at every step. With as many as there are cores, or spinning while they wait, it
    # is several times slower as soon as anything else runs: the server, the database, a browser.
    params.cpuparams.n_threads = max(1, min(4, (os.cpu_count() or 2) // 2))
    params.cpuparams.poll = 0
    params.cache_ram_mib = 256
    params.sampling.temp = 0.3  # where the request says nothing; hotter, so small a model leaves the subject
    params.sampling.penalty_repeat = 1.1
    params.cors_origins = "http://127.0.0.1"  # no web page of elsewhere may ask it
    params.ui = False
    server = xllamacpp.Server(params)
    print(f"serving {file} on {server.listening_address}", flush=True)
    signal.pause()


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m twin_sio.runtime.dev_engines.model_server FILE PORT`: what runs in the model's child process."""
    parser = argparse.ArgumentParser(description="Serve the small model on 127.0.0.1.")
    parser.add_argument("file")
    parser.add_argument("port", type=int)
    given = parser.parse_args(argv)
    _serve_model(given.file, given.port)


if __name__ == "__main__":
    main()
