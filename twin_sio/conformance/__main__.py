"""`python -m twin_sio.conformance`: the scripted server as a program; `twin-sio conformance` starts it."""

from __future__ import annotations

import argparse
import asyncio
import sys

from twin_sio.conformance.run import run


def main() -> int:
    """The exit code: 0 once the script was played, whatever the verdicts; 1 where the port is taken."""
    parser = argparse.ArgumentParser(prog="python -m twin_sio.conformance", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0: a free one")
    parser.add_argument("--limit", type=float, default=10.0, help="seconds that a client has for each rule")
    options = parser.parse_args()
    try:
        asyncio.run(run(options.port, options.limit, sys.stdout))
    except OSError as error:
        print(f"Cannot listen on port {options.port} ({error.strerror}).", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
