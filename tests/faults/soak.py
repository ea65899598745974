"""`python -m tests.faults.soak [--minutes 30] [--seed 1]`: steady load, random faults; what grows, what is lost?

Server 1 and worker 1 are paused and cut off, but never killed, so that there are lives of the run's full length to
judge. After the load everybody has to have everything, and then everybody leaves: what is left over of them is a leak.
A run of 20 minutes and more writes docs/soak.md and its picture. Linux only: memory and files are read from /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tests.faults import leak_detection
from tests.faults.cluster import Cluster, cluster
from tests.faults.figures import Figures
from tests.faults.group_clients import EVENT_BYTES, connect_without_reading, writer
from tests.faults.leak_detection import ProcessSamples, Sample, Trend
from tests.faults.light_clients import LightClient, Swarm
from tests.faults.record import Sum
from tests.faults.simulated_users import SimulatedUser, Tally, violations
from tests.processes import Process
from tests.waiting import eventually

PAGE = Path(__file__).parents[2] / "docs" / "soak.md"
PICTURE = PAGE.with_name("soak.svg")
BEGIN, END = "<!-- generated: soak -->\n", "<!-- end -->\n"
KEPT_FROM_S = 20 * 60
STREAM = {"token_delay_s": 0.05, "count": 30}
LEFT_OVER_TASKS = 6  # the library's own from the first socket on, the scrape's, a job's
SETTLE_S = 120.0


@dataclass(frozen=True)
class Plan:
    """How long, how much, how often."""

    length_s: float
    seed: int = 1
    people: int = 100
    pause_s: float = 11.0
    """Between two things that a user does, on average."""
    lights_s: float = 1.0
    """Between two light sockets that come for a moment, on average."""
    fault_s: tuple[float, float] = (20.0, 60.0)
    """Between the end of a fault and the next one."""
    sample_s: float = 5.0
    kinds: tuple[str, ...] = ()
    """Of faults; none named: all."""


# -- faults ----------------------------------------------------------------------------------------------------------


class Troubles:
    """The faults, each by its name; returns once what it broke serves again, with what was done."""

    def __init__(self, running: Cluster, choose: random.Random) -> None:
        self._cluster = running
        self._choose = choose
        self.codes: list[int] = []
        """What drained servers exited with."""
        self.kinds: dict[str, Callable[[], Awaitable[str]]] = {
            "server killed": self._server_killed,
            "server drained": self._server_drained,
            "server stopped": self._server_stopped,
            "Redis killed": self._redis_killed,
            "Redis stopped": self._redis_stopped,
            "MongoDB killed": self._mongod_killed,
            "MongoDB stopped": self._mongod_stopped,
            "worker killed": self._worker_killed,
            "slow consumer": self._slow_consumer,
            "model refuses": self._model_refuses,
            "model hangs": self._model_hangs,
            "model breaks off": self._model_breaks_off,
        }

    def deck(self, kinds: Sequence[str]) -> Iterator[str]:
        """Kinds in random order, each once before any comes again."""
        while True:
            yield from self._choose.sample(kinds or list(self.kinds), k=len(kinds or self.kinds))

    def pause(self, least: float, most: float) -> float:
        """How long all is well before the next."""
        return self._choose.uniform(least, most)

    async def _away(self, least: float, most: float) -> str:
        """Wait for a random time; how long."""
        seconds = self._choose.uniform(least, most)
        await asyncio.sleep(seconds)
        return f"{seconds:.1f} s"

    def _mortal(self) -> int:
        """A server that may die."""
        return self._choose.randrange(1, len(self._cluster.servers))

    async def _server_killed(self) -> str:
        index = self._mortal()
        await asyncio.to_thread(self._cluster.servers[index].kill)
        away = await self._away(0.5, 5.0)
        await self._cluster.restart(index)
        return f"kill -9 server {index + 1}, started again after {away}"

    async def _server_drained(self) -> str:
        index = self._mortal()
        server = self._cluster.servers[index]
        server.send_signal(signal.SIGTERM)
        code = await server.wait()
        self.codes.append(code)
        await self._cluster.restart(index)
        return f"SIGTERM to server {index + 1}, exit code {code}, started again"

    async def _server_stopped(self) -> str:
        index = self._choose.randrange(len(self._cluster.servers))
        return f"SIGSTOP server {index + 1} for " + await self._stopped(self._cluster.servers[index])

    async def _stopped(self, one: Process) -> str:
        one.pause()
        try:
            return await self._away(2.0, 8.0)
        finally:
            one.resume()

    async def _redis_killed(self) -> str:
        redis = self._cluster.redis
        await asyncio.to_thread(redis.kill)
        shutil.rmtree(redis.folder / "appendonlydir", ignore_errors=True)
        try:
            away = await self._away(1.0, 8.0)
        finally:
            await asyncio.to_thread(redis.restart)
        return f"kill -9 Redis, back empty after {away}"

    async def _redis_stopped(self) -> str:
        self._cluster.redis.pause()
        try:
            return "SIGSTOP Redis for " + await self._away(2.0, 8.0)
        finally:
            self._cluster.redis.resume()

    async def _mongod_killed(self) -> str:
        await asyncio.to_thread(self._cluster.mongod.kill)
        try:
            away = await self._away(0.5, 4.0)
        finally:
            await asyncio.to_thread(self._cluster.mongod.restart)
        return f"kill -9 MongoDB, started again after {away}"

    async def _mongod_stopped(self) -> str:
        self._cluster.mongod.pause()
        try:
            return "SIGSTOP MongoDB for " + await self._away(2.0, 6.0)
        finally:
            self._cluster.mongod.resume()

    async def _worker_killed(self) -> str:
        await asyncio.to_thread(self._cluster.worker.kill)
        away = await self._away(1.0, 6.0)
        self._cluster.worker.start()
        return f"kill -9 worker 2, started again after {away}"

    async def _slow_consumer(self) -> str:
        """A device that never reads, with as much for it as fits into a second, until it is cut."""
        index = self._choose.randrange(len(self._cluster.servers))
        user = self._cluster.user("unread")
        before = (await self._cluster.metrics(index))["twin_slow_consumers_closed_total"]
        client = await asyncio.to_thread(connect_without_reading, self._cluster.servers[index].url, user)
        written = 0
        try:
            async with writer(self._cluster) as log, asyncio.timeout(30):
                while (await self._cluster.metrics(index))["twin_slow_consumers_closed_total"] == before:
                    for _ in range(16):
                        await log.write(user, "x" * EVENT_BYTES)
                        written += EVENT_BYTES
                        await asyncio.sleep(0.01)
        finally:
            client.close()
        return f"a device at server {index + 1} does not read, cut after {written / 2**20:.1f} MiB"

    async def _model(self, what: str, least: float, most: float, **default: object) -> str:
        await self._cluster.tell_model(default={**STREAM, **default})
        try:
            return what + await self._away(least, most)
        finally:
            await self._cluster.tell_model(default=STREAM)

    async def _model_refuses(self) -> str:
        return await self._model("the model answers 503 for ", 3.0, 10.0, status=503)

    async def _model_hangs(self) -> str:
        return await self._model("the model takes requests and says nothing for ", 2.0, 6.0, hang=True)

    async def _model_breaks_off(self) -> str:
        return await self._model("the model breaks off in mid-answer for ", 3.0, 10.0, cut_after=10)


# -- watching --------------------------------------------------------------------------------------------------------


def of_process(pid: int) -> tuple[float, int, float]:
    """MiB of memory of its own, open files, and seconds of CPU time so far.

    Not the pages of mapped files: those of libraries and of the embeddings are shared, and come in as they are used.
    """
    with open(f"/proc/{pid}/status") as file:
        memory = sum(int(kib) for kib in re.findall(r"^RssAnon:\s+(\d+) kB", file.read(), re.MULTILINE)) / 1024
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return memory, len(os.listdir(f"/proc/{pid}/fd")), cpu


class Watch:
    """Looks at every process again and again."""

    def __init__(self, running: Cluster, steady_worker: Process) -> None:
        self._cluster = running
        self._named = {f"server {index + 1}": one for index, one in enumerate(running.servers)}
        self._named |= {"worker 1": steady_worker, "worker 2": running.worker}
        self._engines = {"MongoDB": running.mongod, "Redis": running.redis}
        self._began = time.monotonic()
        self._cpu_began = 0.0
        self._counted: dict[tuple[int, str], float] = {}
        self.lives: list[ProcessSamples] = []
        self.cpu_share = 0.0
        """Of all cores, by all processes of the run together, this one too."""

    @property
    def now(self) -> float:
        return time.monotonic() - self._began

    async def look(self) -> None:
        """One sample of each process that lives."""
        every = {**self._named, **self._engines}
        found = [one for one in every.items() if one[1].alive]
        await asyncio.gather(*(self._look_at(name, process, process.pid) for name, process in found))
        self._note_cpu([process.pid for _, process in found])

    async def _look_at(self, name: str, process: object, pid: int) -> None:
        at, gauges = self.now, dict[str, float]()
        try:
            if isinstance(process, Process):
                with suppress(aiohttp.ClientError, TimeoutError, OSError):
                    async with asyncio.timeout(1.5):
                        gauges = await self._cluster.metrics_of(process)
            memory, fds, _ = of_process(pid)
        except OSError:  # it has just ended
            return
        for key, value in gauges.items():
            if key.startswith(("twin_resumes_total", "twin_errors_total", "twin_turn", "twin_slow", "twin_jobs_total")):
                self._counted[pid, key] = value
        life = next((one for one in self.lives if one.pid == pid), None)
        if life is None:
            self.lives.append(life := ProcessSamples(name, pid))
        names = ("tasks", "connections", "search_index_bytes", "sockets", "held_bytes")
        found = {one: gauges.get(f"twin_{one}") for one in names}
        life.samples.append(Sample(at, memory, fds, **found, lag_s=gauges.get("twin_loop_lag_seconds")))

    def _note_cpu(self, pids: list[int]) -> None:
        times = os.times()
        used = times.user + times.system + times.children_user + times.children_system
        for pid in [*pids, self._cluster.model.pid]:
            with suppress(OSError):
                used += of_process(pid)[2]
        if not self._cpu_began:
            self._cpu_began, self._cpu_at = used, time.monotonic()
        elif (passed := time.monotonic() - self._cpu_at) > 1:
            self.cpu_share = (used - self._cpu_began) / passed / (os.cpu_count() or 1)

    def counted(self, name: str) -> Counter[str]:
        """A counter of all processes and lives together, by its labels."""
        total: Counter[str] = Counter()
        for (_, key), value in self._counted.items():
            if key.partition("{")[0] == name:
                total[key.partition("{")[2].rstrip("}")] += int(value)
        return total

    def life(self, name: str) -> ProcessSamples:
        """The life that runs now, or ran last."""
        return [one for one in self.lives if one.name == name][-1]


# -- the run ---------------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What a run has seen; `figures` is the verdict."""

    plan: Plan
    figures: Figures
    lives: list[ProcessSamples] = field(default_factory=list)
    marks: list[tuple[float, str, str]] = field(default_factory=list)
    """When (seconds), which kind of fault, and what was done."""
    length_s: float = 0.0
    cpu_share: float = 0.0
    is_whole: bool = False

    @property
    def trends(self) -> list[tuple[ProcessSamples, dict[str, Trend | None]]]:
        """Of every server's and worker's life."""
        return [
            (
                life,
                {
                    "memory": leak_detection.memory(life),
                    "tasks": leak_detection.tasks(life),
                    "files": leak_detection.fds(life),
                },
            )
            for life in self.lives
            if life.name.startswith(("server", "worker"))
        ]


class Soak:
    """One run. `stop` ends it early, at the next moment that it looks."""

    def __init__(self, running: Cluster, plan: Plan) -> None:
        self._cluster = running
        self._plan = plan
        self._choose = random.Random(plan.seed)
        self._over = asyncio.Event()
        self._is_broken_off = False
        self._troubles = Troubles(running, random.Random(f"{plan.seed}:faults"))
        self._watch: Watch
        self.tally = Tally()
        self.outcome = Outcome(plan, Figures("soak"))

    def stop(self) -> None:
        """Break off: what was seen so far is the outcome, and nobody is waited for."""
        self._is_broken_off = True
        self._over.set()

    def status(self) -> dict[str, object]:
        """For the progress line."""
        codes = sum(self.tally.codes.values())
        return {"faults": len(self.outcome.marks), "acked": self.tally.acknowledged, "codes": codes}

    async def run(self) -> Outcome:
        plan = self._plan
        taste = '{"candidates": [{"key": "preferences.drink", "value": "tea", "quote": "I prefer tea", '
        taste += '"kind": "explicit", "polarity": "support"}]}'
        await self._cluster.script("All in all I prefer tea", json_answer=taste, **STREAM)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._cluster.tell_model, default={})
            await self._cluster.tell_model(default=STREAM)
            steady_worker = self._cluster.one_more_worker()
            stack.push_async_callback(asyncio.to_thread, steady_worker.stop)
            self._watch = watch = Watch(self._cluster, steady_worker)
            await self._cluster.until_ready()
            await watch.look()
            idle = {one.pid: one.samples[-1] for one in watch.lives}
            swarm = await stack.enter_async_context(Swarm(self._living))
            people = [self._person() for _ in range(plan.people)]
            began = time.monotonic()
            try:
                await self._under_load(people, swarm)
                self.outcome.length_s = time.monotonic() - began
                if not self._is_broken_off:
                    await self._settle(people, swarm)
                    await self._judge(people)
            finally:
                await asyncio.gather(*(person.go() for person in people), return_exceptions=True)
                for one in list(swarm.clients):
                    await swarm.leave(one)
            if not self._is_broken_off:
                await self._leaves_nothing(idle)
                self.outcome.is_whole = True
            self.outcome.lives, self.outcome.cpu_share = watch.lives, watch.cpu_share
            self._judge_lives()
            self._note(people, swarm)
        return self.outcome

    def _person(self) -> SimulatedUser:
        choose = random.Random(self._choose.random())
        devices = choose.choice((1, 2, 2, 3))
        return SimulatedUser(self._cluster, choose, self.tally, devices=devices, pause_s=self._plan.pause_s)

    def _living(self) -> list[str]:
        return [one.url for one in self._cluster.servers if one.alive and one.port] or [self._cluster.servers[0].url]

    async def _under_load(self, people: Sequence[SimulatedUser], swarm: Swarm) -> None:
        """Everything at once, until the time is up; what was broken is mended then."""
        tasks = [asyncio.create_task(self._lives(person, index)) for index, person in enumerate(people)]
        tasks += [asyncio.create_task(self._visits(people, swarm)), asyncio.create_task(self._looks())]
        breaks = asyncio.create_task(self._breaks())
        breaks.add_done_callback(
            lambda ended: self._over.set() if not ended.cancelled() and ended.exception() else None
        )
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._plan.length_s):
                    await self._over.wait()
            self._over.set()
            await asyncio.wait([breaks])  # which mends
            if not self._is_broken_off:
                await asyncio.wait(tasks, timeout=SETTLE_S)
        finally:
            for task in (breaks, *tasks):
                task.cancel()
            ended = await asyncio.gather(breaks, *tasks, return_exceptions=True)
            for error in [one for one in ended if isinstance(one, Exception)]:
                self.outcome.figures.broken.append(f"the soak itself: {type(error).__name__}: {error}")

    async def _lives(self, person: SimulatedUser, index: int) -> None:
        await asyncio.sleep(0.05 * index)  # not all of them in one moment
        await person.live(self._over)

    async def _visits(self, people: Sequence[SimulatedUser], swarm: Swarm) -> None:
        """Light sockets come for some seconds and leave."""
        leaving: list[tuple[float, LightClient]] = []
        while not self._over.is_set():
            await asyncio.sleep(self._choose.expovariate(1 / self._plan.lights_s))
            light = swarm.add(self._choose.choice(people).user, self._choose.randrange(3))
            leaving.append((time.monotonic() + self._choose.expovariate(1 / 20), light))
            for at, one in list(leaving):
                if at < time.monotonic():
                    leaving.remove((at, one))
                    await swarm.leave(one)

    async def _looks(self) -> None:
        while not self._over.is_set():
            await self._watch.look()
            await self._cluster.tell_model(forget=True)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._plan.sample_s):
                    await self._over.wait()

    async def _breaks(self) -> None:
        """A fault, until all serve again, and the next; none begins that could not end within the run."""
        least, most = self._plan.fault_s
        until = time.monotonic() + self._plan.length_s - least / 2
        for kind in self._troubles.deck(self._plan.kinds):
            with suppress(TimeoutError):
                async with asyncio.timeout(self._troubles.pause(least, most)):
                    await self._over.wait()
            if self._over.is_set() or time.monotonic() > until:
                return
            at = self._watch.now
            self.outcome.marks.append((at, kind, "under way"))
            effect = await self._troubles.kinds[kind]()
            self.outcome.marks[-1] = (at, kind, effect)
            await self._cluster.until_ready(timeout=40.0)

    # -- judging -----------------------------------------------------------------------------------------------------

    async def _settle(self, people: Sequence[SimulatedUser], swarm: Swarm) -> None:
        """Everybody is there, no answer is owed, and everybody has come to the end of the log."""
        figures = self.outcome.figures
        ready = await asyncio.gather(self._cluster.until_ready(), return_exceptions=True)
        figures.holds("every server is ready in the end", ready == [None])
        await asyncio.gather(*(person.come_home() for person in people))

        async def nothing_owed() -> bool:
            turns = [turn for person in people for turn in await self._cluster.turns(person.user)]
            return not any(turn.get("unfinished") for turn in turns)

        with suppress(TimeoutError):  # it is counted
            async with asyncio.timeout(SETTLE_S):
                while not await nothing_owed():  # noqa: ASYNC110
                    await asyncio.sleep(1.0)
        began, behind = time.monotonic(), 0
        for person in people:
            log = await self._cluster.log(person.user)
            end = log[-1]["seq"] if log else 0
            lights = [one for one in swarm.clients if one.user == person.user]

            def is_there(
                person: SimulatedUser = person, end: int = end, lights: Sequence[LightClient] = lights
            ) -> bool:
                return all((one.last or 0) >= end for one in (*person.records, *lights) if one.last is not None)

            with suppress(TimeoutError):
                await eventually(is_there, max(1.0, began + 60 - time.monotonic()))
            behind += sum((one.last or 0) < end for one in (*person.records, *lights) if one.last is not None)
            for seat in person.seats:
                if seat.device is not None and (seat.record.last or 0) < end:
                    at = f"at {seat.record.last} of {end}, server {seat.device.server + 1}"
                    figures.broken.append(f"{seat.record.name} {at}, connected {seat.device.is_connected}")
        figures.count("devices that did not come to the end of the log", behind)
        figures.time("all devices converged after", time.monotonic() - began)

    async def _judge(self, people: Sequence[SimulatedUser]) -> None:
        """What was promised to every user, against the log."""
        figures, total, wrong = self.outcome.figures, Sum(), Counter[str]()
        statuses: Counter[str] = Counter()
        for person in people:
            log = await self._cluster.log(person.user)
            total += await self._cluster.judge(person.records, person.user)
            wrong += violations(person, log, await self._cluster.turns(person.user))
            statuses.update(one["payload"]["status"] for one in log if one["type"] == "twin_message")
        figures.judge(total)
        for what in (
            "acknowledged and not stored once",
            "acknowledged and never answered",
            "answered otherwise than once for each request",
            "answers without an end",
        ):
            figures.count(what, wrong[what])
        figures.count("resumes that were not complete", sum(r.incomplete for person in people for r in person.records))
        for status, count in sorted(statuses.items()):
            figures.count(f"answers {status}", count, at_most=None)

    async def _leaves_nothing(self, idle: dict[int, Sample]) -> None:
        """Once everybody has left, a server is as it was before they came."""
        like = max(idle[life.pid].tasks or 0 for life in self._watch.lives if life.pid in idle)

        def left() -> list[tuple[str, Sample]]:
            return [
                (name, self._watch.life(name).samples[-1])
                for name in (f"server {index + 1}" for index in range(len(self._cluster.servers)))
            ]

        async def is_empty() -> bool:
            await self._watch.look()
            return not any(
                one.sockets or one.held_bytes or one.tasks is None or one.tasks > like + LEFT_OVER_TASKS
                for _, one in left()
            )

        with suppress(TimeoutError):
            async with asyncio.timeout(40):
                while not await is_empty():  # noqa: ASYNC110
                    await asyncio.sleep(1.0)
        figures = self.outcome.figures
        for name, one in left():
            figures.count(f"{name}: tasks left over", max(0, int((one.tasks or 0) - like)), at_most=LEFT_OVER_TASKS)
            figures.count(f"{name}: sockets left over", int(one.sockets or 0))
            figures.count(f"{name}: bytes left over", int(one.held_bytes or 0))

    def _judge_lives(self) -> None:
        for life, trends in self.outcome.trends:
            for what, found in trends.items():
                if found is not None and not found.is_flat:
                    self.outcome.figures.broken.append(f"{life.name}: {what} grows, {_shown(found, '')}")

    def _note(self, people: Sequence[SimulatedUser], swarm: Swarm) -> None:
        figures, tally, watch = self.outcome.figures, self.tally, self._watch
        figures.count("gave up", len(tally.gave_up))
        for what, count in Counter(tally.gave_up).most_common(5):
            figures.note(f"  {what}: {count}")
        figures.count("answered `internal`", tally.codes["internal"])
        figures.count("drained servers with an exit code other than 0", sum(code != 0 for code in self._troubles.codes))
        figures.count("users", len(people), at_most=None)
        figures.count("devices", sum(len(person.seats) for person in people), at_most=None)
        figures.count("visits of devices", sum(seat.visits for person in people for seat in person.seats), at_most=None)
        figures.count("light sockets that came and left", swarm.left, at_most=None)
        figures.count("messages acknowledged", tally.acknowledged, at_most=None)
        for act, count in sorted(tally.actions.items()):
            figures.count(f"done: {act}", count, at_most=None)
        for code, count in tally.codes.most_common():
            figures.count(f"answered: {code}", count, at_most=None)
        for name in ("twin_resumes_total", "twin_turn_take_overs_total", "twin_slow_consumers_closed_total"):
            figures.count(name, sum(watch.counted(name).values()), at_most=None)
        lags = [one.lag_s for life in watch.lives for one in life.samples if one.lag_s is not None]
        figures.time("median of a sample's worst loop lag", sorted(lags)[len(lags) // 2] if lags else 0.0)


# -- what is shown and written ---------------------------------------------------------------------------------------


def trend_rows(outcome: Outcome) -> list[list[str]]:
    """A row for each life of a server or worker that was long enough to be judged."""
    rows = []
    for life, trends in outcome.trends:
        if any(trends.values()):
            cells = [_shown(trends[what], unit) for what, unit in (("memory", " MiB"), ("tasks", ""), ("files", ""))]
            flat = all(one is None or one.is_flat for one in trends.values())
            rows.append([life.name, f"{life.length_s / 60:.0f} min", *cells, "flat" if flat else "**grows**"])
    return rows


def _shown(found: Trend | None, unit: str) -> str:
    if found is None:
        return "–"
    return f"{found.first:.0f} → {found.last:.0f}{unit} ({found.slope_h:+.1f}/h; bound {found.bound:.0f})"


HEAD = ["process", "lived", "memory", "tasks", "open files", "verdict"]


def show(outcome: Outcome, console: Console) -> None:
    table = Table(*HEAD, title="steady part of each life: median of its first and last quarter, slope, bound of growth")
    for row in trend_rows(outcome):
        table.add_row(*row)
    console.print(table)
    for number, (at, _, effect) in enumerate(outcome.marks, 1):
        console.print(f"{number:>3}  {at / 60:5.1f} min  {effect}", highlight=False)
    console.print(f"{outcome.cpu_share * 100:.0f} % of {os.cpu_count()} cores used")
    console.print("\n".join(outcome.figures.said), highlight=False, markup=False)
    for one in outcome.figures.broken:
        console.print(f"broken: {one}", style="red", highlight=False, markup=False)
    passed = "PASS" if outcome.figures.passed else "FAIL"
    console.print(passed if outcome.is_whole else f"broken off after {outcome.length_s:.0f} s; so far {passed}")


def page(outcome: Outcome) -> str:
    """The generated part of docs/soak.md."""
    figures = outcome.figures
    verdict = "PASS" if figures.passed else "FAIL: " + "; ".join(figures.broken)
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"
    lines = [f"{machine}, {outcome.length_s / 60:.0f} minutes, seed {outcome.plan.seed}, {len(outcome.marks)} faults, "]
    lines[0] += f"{outcome.cpu_share * 100:.0f} % of the cores used: **{verdict}**"
    lines += ["", "![memory, tasks and connections over time](soak.svg)", ""]
    lines += ["| " + " | ".join(row) + " |" for row in (HEAD, ["---"] * len(HEAD), *trend_rows(outcome))]
    lines += ["", "| seen | |", "|---|---|"]
    lines += ["| {} | {} |".format(*one.strip().rpartition(" ")[::2]) for one in figures.said]
    lines += ["", "| | minute | fault |", "|---|---|---|"]
    lines += [f"| {n} | {at / 60:.1f} | {effect} |" for n, (at, _, effect) in enumerate(outcome.marks, 1)]
    return "\n".join(lines) + "\n\n"


def draw(outcome: Outcome, picture: Path) -> None:
    marks = [(at, str(number)) for number, (at, *_) in enumerate(outcome.marks, 1)]
    picture.write_text(leak_detection.picture(outcome.lives, marks))


def write(outcome: Outcome) -> None:
    draw(outcome, PICTURE)
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(before + BEGIN + "\n" + page(outcome) + END + after)


async def main(plan: Plan, picture: Path | None) -> int:
    console = Console()
    console.print(f"{plan.people} users over 3 servers for {plan.length_s / 60:g} minutes; seed {plan.seed}")
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as folder:
        async with cluster(Path(folder), TWIN_HEARTBEAT_INTERVAL_MS=10_000, tuning={"turn_lease_s": 10}) as running:
            soak = Soak(running, plan)
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, soak.stop)
            shown = asyncio.create_task(_progress(soak, plan, console))
            try:
                outcome = await soak.run()
            finally:
                shown.cancel()
                await asyncio.gather(shown, return_exceptions=True)
    show(outcome, console)
    if picture is not None:
        draw(outcome, picture)
    if not outcome.is_whole:
        return 130
    if plan.length_s >= KEPT_FROM_S:
        write(outcome)
        console.print(f"written: {PAGE.name}, {PICTURE.name}")
    return 0 if outcome.figures.passed else 1


async def _progress(soak: Soak, plan: Plan, console: Console) -> None:
    """A line that lives where there is a terminal; a line a minute elsewhere."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(30),
        TimeRemainingColumn(),
        TextColumn("{task.fields[faults]} faults, {task.fields[acked]} acknowledged, {task.fields[codes]} codes"),
    )
    began = time.monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("soak", total=plan.length_s, **soak.status())
        said = 0
        while True:
            passed = time.monotonic() - began
            what = "soak" if passed < plan.length_s else "settling"
            progress.update(task, completed=passed, description=what, **soak.status())
            if not console.is_terminal and passed // 60 > said:
                said = int(passed // 60)
                console.print(f"{said} min: {soak.status()}", highlight=False)
            await asyncio.sleep(0.5)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Steady load with random faults: does anything grow or get lost?")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--people", type=int, default=Plan.people)
    parser.add_argument("--picture", type=Path, help="where to put a picture of a short run, too")
    given = parser.parse_args()
    if not Path("/proc/self/status").exists():
        sys.exit("The soak reads /proc, which only Linux has.")
    sys.exit(asyncio.run(main(Plan(given.minutes * 60, given.seed, given.people), given.picture)))
