"""The service itself, with all its guarantees: `python -m bench.contestants.ours`, settings from the environment.

Chunks enter where the turn runner hands them over, so they are kept for joiners, counted, published and delivered as
those of an answer are; the model and the store have no part in it.
"""

from __future__ import annotations

from bench.contestants import obey, run
from twin_sio.clock import monotonic, new_id
from twin_sio.config import Settings
from twin_sio.domain import Generation
from twin_sio.observability.logging import configure_logs
from twin_sio.runtime.serve import service


async def main() -> None:
    settings = Settings.from_environment()
    configure_logs("error")
    async with service(settings) as running:
        delivery = running.services.delivery

        answers: dict[str, Generation] = {}

        async def send(user: str, index: int, text: str) -> None:
            if index == 0:
                answers[user] = Generation(new_id(), "main", new_id(), "session", monotonic())
                delivery.begin_generation(user, answers[user])
            delivery.chunk(user, answers[user], text)

        await obey(running.port, send, lambda: running.sockets.open_sockets)


run(main)
