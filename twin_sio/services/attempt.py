"""One run of the agent for an answer, relayed to the devices as it comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace

import structlog

from twin_sio.agent import Activity, Agent, AgentRequest, Delta, Done, Reasoning, Stage, Suspended
from twin_sio.clock import NewId, monotonic
from twin_sio.domain import ApprovalRequest, Event, Generation, Outcome, Step, Turn
from twin_sio.errors import ModelUnavailable, StorageUnavailable
from twin_sio.services.ports import Delivery
from twin_sio.services.runs import StoredRun

log = structlog.get_logger("turns")

STEPS_MAX = 64  # that an answer shows; of more the last
REASONING_CHARACTERS = 64 * 1024  # of what is stored of it

Send = Callable[[Turn, str, dict[str, object]], None]


@dataclass(slots=True)
class TurnStats:
    """Counts for the operator, and hooks that receive times in seconds."""

    finished: dict[str, int] = field(default_factory=dict)  # answers by their status
    given_up: int = 0  # turns that cost two instances their lease
    take_overs: int = 0  # generations begun in place of another instance's
    suspended: int = 0  # times that an answer began to wait for its user
    on_first_token: Callable[[float], None] = lambda _: None
    on_chunk_gap: Callable[[float], None] = lambda _: None


class Attempt:
    """Runs the agent once. What it says goes to the devices at once; how it ended is an `Outcome`, or `requests`."""

    def __init__(
        self,
        turn: Turn,
        question: Event,
        generation: Generation,
        run: StoredRun,
        agent: Agent,
        delivery: Delivery,
        stats: TurnStats,
        new_id: NewId,
        send: Send,
        interrupt: Callable[[], object],
    ) -> None:
        """`interrupt` is called where a message is to steer it, and it takes in none: to end it."""
        self._turn = turn
        self._question = question
        self._generation = generation
        self._run = run
        self._agent = agent
        self._delivery = delivery
        self._stats = stats
        self._new_id = new_id
        self._send = send
        self._interrupt = interrupt
        self._done: Done | None = None  # the agent's last word: model, usage, traits
        self._thoughts: list[str] = []  # chunks of reasoning
        self._is_steered = False  # a message waits to be taken in
        self.requests: tuple[ApprovalRequest, ...] = ()
        """What the user is asked before it can go on."""

    @property
    def text(self) -> str:
        """The answer so far, as the devices have seen it."""
        return "".join(self._generation.texts)

    async def run(self) -> Outcome:
        """Stream to the end. Never raises: a failure is an outcome."""
        try:
            await self._stream()
        except (ModelUnavailable, StorageUnavailable) as error:
            return self.outcome("failed", error.code, error.retry_after_ms)
        except Exception:
            error_id = self._new_id()
            log.exception("turn_failed", error_id=error_id)
            return self.outcome("failed", "internal")
        outcome = self.outcome("complete")
        if not outcome.text and not self.requests:
            log.warning("agent_said_nothing", meaning="the agent came to its end, and had yielded no text")
            return self.outcome("failed", "internal")
        return outcome

    async def _stream(self) -> None:
        turn, question = self._turn, self._question
        request = AgentRequest(
            turn.user_id,
            turn.conversation_id,
            turn.message_id,
            question.seq,
            str(question.payload["text"]),
            turn.turn_id,
            turn.persona,
            self._run,
        )
        at = monotonic()
        async with aclosing(self._agent.answer(request)) as parts:
            async for part in parts:
                match part:
                    case Delta(text):
                        before, at = at, monotonic()
                        self._record_time(at - before)
                        self._delivery.chunk(turn.user_id, self._generation, text)
                    case Stage(state):
                        self._send(turn, "twin_thinking", {"state": state})
                    case Reasoning(text):
                        self._think(text)
                    case Activity(step):
                        self._show(step)
                    case Suspended(requests):
                        self.requests = requests
                    case Done():
                        self._done = part

    def _record_time(self, seconds: float) -> None:
        if self._generation.texts:
            self._stats.on_chunk_gap(seconds)
        else:
            self._stats.on_first_token(seconds)
            if self._is_steered:
                self._end_if_plain()

    def _think(self, text: str) -> None:
        payload: dict[str, object] = {
            "text": text,
            "generation_id": self._generation.generation_id,
            "chunk_index": len(self._thoughts),
        }
        self._thoughts.append(text)
        self._send(self._turn, "twin_reasoning_chunk", payload)

    def _show(self, step: Step) -> None:
        known = self._run.steps.get(step.step_id)
        if known == step:
            return
        self._run.steps[step.step_id] = step
        while len(self._run.steps) > STEPS_MAX:
            del self._run.steps[next(iter(self._run.steps))]
        self._send(self._turn, "twin_activity", step_payload(step))

    # -- while it runs -----------------------------------------------------------------------------------------------

    def on_changed(self) -> None:
        """A message may wait to steer it, or a result may have come."""
        self._run.wake()
        self._is_steered = True
        if self._generation.texts:
            self._end_if_plain()

    def _end_if_plain(self) -> None:
        """What has begun to speak without having steps will have none."""
        if not self._run.loops:
            self._interrupt()

    def outcome(
        self,
        status: str,
        error: str | None = None,
        retry_after_ms: int | None = None,
        *,
        stopped_by: str | None = None,
    ) -> Outcome:
        """How it ended, with the text as the devices have seen it, or as the agent has put it right."""
        done = self._done or Done("", ())
        return Outcome(
            status,  # type: ignore[arg-type]
            self.text if done.text is None else done.text,
            self._generation.generation_id,
            done.model,
            done.usage,
            done.used_traits,
            error,
            retry_after_ms,
            done.cut,
            ended_steps(self._run.steps),
            "".join(self._thoughts)[:REASONING_CHARACTERS] or None,
            self._run.steered,
            stopped_by,
            # An endpoint that was away has answered nothing, and bills nothing.
            self._run.asked if status != "failed" or self.text else 0,
        )


def ended_steps(steps: Mapping[str, Step]) -> tuple[Step, ...]:
    """The steps of an answer that has ended: what was under way has not been done to its end."""
    return tuple(
        replace(step, state="failed", summary="stopped") if step.state in ("started", "progress", "waiting") else step
        for step in steps.values()
    )


def step_payload(step: Step) -> dict[str, object]:
    """A step as it is sent."""
    return {name: value for name, value in asdict(step).items() if value is not None}


def generation_of(turn: Turn) -> Generation:
    """What the devices see of the attempt that the turn has begun."""
    return Generation(
        turn.generation_id or "",
        turn.conversation_id,
        turn.message_id,
        turn.session_id,
        monotonic(),
        epoch=turn.epoch,
    )
