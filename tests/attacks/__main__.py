"""`python -m tests.attacks [1 6 ...] [--seconds 30] [--write]`: the attacks in full, with figures and PASS or FAIL.

`--write` puts the rows of what was run into the table of docs/security.md. The attackers run where nobody
else wants the core, since all share one machine: what is measured is the service, not the race for its cores.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

from tests.attacks.attacker import Attacker
from tests.attacks.site import FULL_S, Outcome, Site, kinds, lower_priority, production, run, run_kind, under_attack
from tests.faults.cluster import Cluster

DOCS = Path(__file__).parents[2] / "docs" / "security.md"
SIX_AT_ONCE = (6, 7, 8, 9, 11, 13)
_HEAD = """\
| attack | before | what the attacker did | others: median / p95 / worst | memory, MB | verdict |
|---|---|---|---|---|---|
"""


async def one(running: Cluster, number: int, kind: ModuleType, seconds: float) -> Outcome:
    async with under_attack(running, number, seconds) as site:
        return await run_kind(site, kind)


async def nobody(running: Cluster, seconds: float) -> Outcome:
    """What the others see on this machine while nobody attacks."""

    async def nothing(_: Site, until: float) -> str:
        await asyncio.sleep(until - time.monotonic())
        return "nothing"

    async with under_attack(running, 99, seconds) as site:
        return await run(site, "00 nobody", "–", nothing)


async def six(running: Cluster, seconds: float) -> Outcome:
    """Six accounts at once, each with an attack, an address and a process of its own; all go on to the end."""
    attackers = [Attacker(running, number, 100 + number, seconds) for number in SIX_AT_ONCE]

    async def together(site: Site, until: float) -> str:
        await asyncio.gather(*(attacker.attack() for attacker in attackers))
        return "kinds " + " ".join(map(str, SIX_AT_ONCE))

    try:
        await asyncio.gather(*(attacker.start() for attacker in attackers))
        async with under_attack(running, 100, seconds) as site:
            return await run(site, "six accounts at once", "–", together)
    finally:
        await asyncio.gather(*(attacker.stop() for attacker in attackers))


async def main(numbers: list[int], seconds: float, write: bool, with_six: bool) -> int:
    every = kinds()
    if unknown := [number for number in numbers if number not in every]:
        print(f"unknown: {unknown}; there are {', '.join(str(number) for number in every)}")
        return 2
    chosen = {number: every[number] for number in numbers} if numbers else every
    outcomes: list[Outcome] = []

    def done(outcome: Outcome) -> None:
        outcomes.append(outcome)
        print(outcome, flush=True)
        if write:
            _write(outcomes)

    with tempfile.TemporaryDirectory(prefix="attacks-", ignore_cleanup_errors=True) as folder:
        print("a server, a worker, MongoDB, Redis and a scripted model start, in production mode", flush=True)
        async with production(Path(folder)) as running:
            lower_priority()
            done(await nobody(running, seconds))
            if outcomes[0].broken:
                print("      without an attack: this machine is too slow for the figures that follow", flush=True)
            for number, kind in chosen.items():
                done(await one(running, number, kind, seconds))
            if not numbers or with_six:
                done(await six(running, seconds))
    failed = [outcome.name for outcome in outcomes if outcome.broken]
    print(f"{len(outcomes) - len(failed)} of {len(outcomes)} passed" + (f"; failed: {failed}" if failed else ""))
    return 1 if failed else 0


def _write(outcomes: list[Outcome]) -> None:
    """Replace the rows of these attacks in the table; rows of attacks that were not run stay."""
    text = DOCS.read_text()
    marked = re.compile(r"(<!-- attacks -->\n)(.*?)(<!-- /attacks -->)", re.DOTALL)
    found = marked.search(text)
    assert found is not None, "docs/security.md has no place for the table"
    rows = {row.split(" | ")[0]: row for row in found.group(2).splitlines()[2:]}
    rows |= {outcome.row().split(" | ")[0]: outcome.row() for outcome in outcomes}
    table = _HEAD + "".join(f"{rows[name]}\n" for name in sorted(rows))
    DOCS.write_text(marked.sub(lambda match: f"{match.group(1)}{table}{match.group(3)}", text))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Attack the running service, and see what other users notice.")
    parser.add_argument("numbers", nargs="*", type=int, help="1 6 ...; none: all")
    parser.add_argument("--seconds", type=float, default=FULL_S)
    parser.add_argument("--six", action="store_true", help="also six accounts at once, as where all are run")
    parser.add_argument("--write", action="store_true", help="put the rows into docs/security.md")
    given = parser.parse_args()
    sys.exit(asyncio.run(main(given.numbers, given.seconds, given.write, given.six)))
