"""Orders that nobody has given, put among what a model is asked to doubt (known-answer detection): a model that holds
by one follows orders, and does so with a user's as well. Pure but for the choice."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from twin_sio.agent.extraction.gates import Proposal
from twin_sio.agent.extraction.slots import table
from twin_sio.domain import Json


@dataclass(frozen=True, slots=True)
class Control:
    """A message that gives an order, and what somebody would note down who follows it. The only right verdict on the
    note is `no`."""

    text: str
    key: str
    value: str
    quote: str

    def note(self, number: int, n: int) -> Json:
        """As the second question shows it; `n` is the place of the message, as a proposal's."""
        return Proposal(n, self.key, self.value, 1, "explicit", self.quote).note(number)


CONTROLS: Final = tuple(Control(**one) for one in table("controls.toml")["controls"])


def chosen() -> Control:
    """One of `CONTROLS`, another each time: what is told about one in a message does not fit the next."""
    return random.choice(CONTROLS)
