"""Attacks on a running service: what one address or one account can do to everybody else.

A module `kind_NN_name.py` is one kind of attack:

- its docstring: what the attacker does and what bounds it; `BEFORE`: what the attack cost when it was found;
- `async def attack(site, until) -> str`: does its worst until `time.monotonic() >= until`; returns one line of what it
  did and what it was answered;
- `async def check(site) -> list[str]` (optional): what does not hold afterwards; empty: all holds.

While an attack runs, a process of its own (`bystanders.py`) measures what five other users see. `test_attacks.py` runs
the short forms, `python -m tests.attacks` (`make attacks`) the full ones, and writes their table into docs/security.md.
"""
