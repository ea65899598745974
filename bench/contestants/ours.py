"""The service itself, with all its guarantees: `python -m bench.contestants.ours`, settings from the environment.

Chunks enter where the turn runner hands them over, so they are kept for joiners, counted, published and delivered as
those of an answer are; the model and the store have no part in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from bench.contestants import TEXT, obey, run
from twin_sio.app import configure_logs, service
from twin_sio.clock import monotonic, new_id
from twin_sio.config import Settings
from twin_sio.domain import Generation


async def main() -> None:
    settings = Settings.from_environment()
    configure_logs("error")
    async with service(settings) as running:
        delivery = running._parts.delivery

        async def emit(users: Sequence[str], rounds: int) -> None:
            answers = {user: Generation(new_id(), "main", new_id(), "session", monotonic()) for user in users}
            for user, generation in answers.items():
                delivery.begin_generation(user, generation)
            for _ in range(rounds):
                for user, generation in answers.items():
                    delivery.chunk(user, generation, TEXT)
                await asyncio.sleep(0)
            for generation in answers.values():
                delivery.end_generation(generation)

        await obey(running.port, emit, lambda: running._sockets.sockets)


run(main)
