"""What the learning jobs read: messages with their answers and the lines before them, from the stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from twin_sio.agent.extraction.prompts import LINES_BEFORE, PEOPLE
from twin_sio.agent.traits import EXISTENCE, is_sensitive, without_rejected_people
from twin_sio.domain import Entity, Event, Exchange, Line, Profile, Turn
from twin_sio.services.answers import answer_id
from twin_sio.services.lines import with_answers
from twin_sio.store.ports import Log, Turns

_EVENTS_BEFORE = 12  # of the log, in which they are looked for
_CHARACTERS = 8_000  # of the messages that are read together


@dataclass(frozen=True, slots=True)
class ExchangeReader:
    """Reads exchanges of one user's conversation."""

    messages: Log
    turns: Turns

    async def batch(self, turn: Turn, most: int) -> Sequence[tuple[Turn, Exchange | None]]:
        """`turn` and the turns after it in its conversation that nothing was learnt from, `most` at most, each with its
        exchange (None: erased since, or kept no longer). Empty where it has been learnt from."""
        waiting = await self.turns.to_learn(turn, most)
        found: list[tuple[Turn, Exchange | None]] = []
        # Of the second and later ones the lines before are the exchanges before them.
        before: tuple[Line, ...] = ()
        left = _CHARACTERS
        for nth, one in enumerate(waiting):
            exchange = await self._of_turn(one, before if nth else None)
            left -= len(exchange.text) if exchange is not None else 0
            # The first one is always read, however long it is.
            if left < 0 and found:
                break
            found.append((one, exchange))
            if exchange is not None:
                before = (*exchange.before, *_said(exchange))[-LINES_BEFORE:]
        return found

    async def _of_turn(self, turn: Turn, before: tuple[Line, ...] | None) -> Exchange | None:
        asked = await self.messages.get(turn.user_id, turn.message_id)
        if asked is None or asked.type != "user_message":
            return None
        answered = await self.messages.get(turn.user_id, answer_id(turn))
        lines = await self._before(asked) if before is None else before
        return _exchange(asked, str(asked.payload["text"]), answered, lines)

    async def correction(self, user_id: str, message_id: str) -> Exchange | None:
        """What the user wrote to put an answer right, as an exchange; None where it was erased since."""
        feedback = await self.messages.get(user_id, message_id)
        if feedback is None or feedback.type != "feedback" or not feedback.payload.get("correction"):
            return None
        answered = await self.messages.get(user_id, feedback.payload["message_id"])
        return _exchange(feedback, feedback.payload["correction"], answered, ())

    async def _before(self, asked: Event) -> tuple[Line, ...]:
        """The last lines before a message, the oldest first; of several answers to one message the newest."""
        page = await self.messages.page(
            # More events than lines: several answers to one message count as one.
            asked.user_id,
            asked.conversation_id,
            before=asked.seq,
            after=None,
            limit=_EVENTS_BEFORE,
        )
        lines: list[Line] = []
        for event, answer in with_answers(page.events):
            lines.append(Line("user", event.payload["text"]))
            if answer is not None:
                lines.append(Line("twin", answer.payload["text"]))
        return tuple(lines[-LINES_BEFORE:])


def known_values(profile: Profile) -> Mapping[str, Sequence[str]]:
    """What a user's profile says, by key, the surest first, but what has ended or was rejected; "not kids" of what they
    deny. What it says of those in their life, or were, stands under `PEOPLE`, a line for each, without what is
    sensitive and was not confirmed."""
    known: dict[str, list[str]] = {}
    people: dict[Entity, list[str]] = {}
    for trait in sorted(without_rejected_people(profile), key=lambda trait: -trait.confidence):
        if trait.status == "superseded" and trait.key in EXISTENCE and trait.entity is not None:
            people.setdefault(trait.entity, []).append("is gone")
        if trait.status not in ("applied", "tentative") and not trait.is_denied:
            continue
        if trait.entity is None or trait.key in EXISTENCE:
            known.setdefault(trait.key, []).append(f"not {trait.value}" if trait.is_denied else trait.value)
        if trait.entity is not None and not trait.is_denied and (trait.pinned or not is_sensitive(trait.key)):
            facts = people.setdefault(trait.entity, [])
            facts += [] if trait.key in EXISTENCE else [f"{trait.key} {trait.value}"]
    lines = (": ".join(filter(None, (who.label, "; ".join(facts)))) for who, facts in people.items())
    in_their_life = [line for line in lines if line]
    return {PEOPLE: in_their_life, **known} if in_their_life else known


def _said(exchange: Exchange) -> tuple[Line, ...]:
    lines = (Line("user", exchange.text), Line("twin", exchange.answer))
    return tuple(line for line in lines if line.text)


def _exchange(event: Event, text: str, answered: Event | None, before: tuple[Line, ...]) -> Exchange:
    return Exchange(
        user_id=event.user_id,
        message_id=event.message_id,
        conversation_id=event.conversation_id,
        session_id=event.session_id or "",
        at=event.at,
        text=text,
        answer=str(answered.payload["text"]) if answered is not None else "",
        epoch=event.epoch,
        before=before,
    )
