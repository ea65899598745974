"""`python -m tests.faults [F1 F6 ...] [--seed N]`: the faults in full, a line of figures and PASS or FAIL each.

A module of this package lists its faults in `FAULTS`; found are all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import pkgutil
import re
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests import faults
from tests.faults.cluster import Fault, cluster
from tests.faults.figures import Figures, Scale

LIMIT_S = 900.0


def found() -> dict[str, Fault]:
    """Every fault by its name, in the order of their numbers."""
    names = [module.name for module in pkgutil.iter_modules(faults.__path__)]
    modules = [importlib.import_module(f"tests.faults.{name}") for name in names if name.startswith("group_")]
    every: dict[str, Fault] = {}
    for module in modules:
        every.update(module.FAULTS)
    return dict(sorted(every.items(), key=lambda item: [int(n) for n in re.findall(r"\d+", item[0])] or [99]))


async def run(names: list[str], seed: int) -> int:
    every = found()
    if unknown := [name for name in names if name not in every]:
        print(f"unknown: {', '.join(unknown)}; there are {', '.join(every)}")
        return 2
    chosen = {name: every[name] for name in names} if names else every
    failed = []
    with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as folder:
        print(f"3 servers, a worker, MongoDB, Redis and a scripted model start; seed {seed}", flush=True)
        async with cluster(Path(folder)) as running:
            for name, fault in chosen.items():
                began = time.monotonic()
                if sys.stdout.isatty():
                    print(f"{name} ...", end="\r", flush=True)
                try:
                    async with asyncio.timeout(LIMIT_S):
                        figures = await fault(running, Scale(full=True, seed=seed))
                except Exception as error:
                    figures = Figures(name, broken=[f"{type(error).__name__}: {error}"])
                    traceback.print_exc()
                print(f"{figures} ({time.monotonic() - began:.0f} s)", flush=True)
                if not figures.passed:
                    failed.append(name)
                    break_up = await asyncio.gather(running.until_ready(), return_exceptions=True)
                    if break_up[0] is not None:
                        print("the cluster did not recover: the rest is not run", flush=True)
                        break
    print(f"{len(chosen) - len(failed)} of {len(chosen)} passed" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Break the running service, and see what its clients notice.")
    parser.add_argument("names", nargs="*", help="F1, F6 ...; none: all")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    return asyncio.run(run(given.names, given.seed))


if __name__ == "__main__":
    sys.exit(main())
