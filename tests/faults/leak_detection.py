"""Whether a process stays as it is: samples of its life, the trend in them, and a picture. Pure.

What is judged is the steady part of a life: without its first third (two minutes at least), in which modules are
imported late, pools fill up to their bounds and the allocator finds its size. Growth is what two robust measures agree
on, the slope between all pairs of samples (Theil and Sen) and the difference of the medians of the first and the last
quarter; so neither noise nor a few outliers make a leak, nor hide one.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

WARM_UP_S = 120.0
WARM_UP_SHARE = 1 / 3
LEAST_S = 360.0  # so that a quarter of it is longer than what one fault leaves behind
MEMORY_MIB, MEMORY_SHARE = 6.0, 0.05
COUNT, COUNT_SHARE = 12.0, 0.05
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Sample:
    """One look at a process, `at` seconds after the begin of the run. None: it did not answer."""

    at: float
    memory_mib: float
    fds: int
    tasks: float | None = None
    connections: float | None = None
    search_index_bytes: float | None = None
    sockets: float | None = None
    held_bytes: float | None = None
    lag_s: float | None = None


@dataclass
class ProcessSamples:
    """One process from its start to its end; a restarted one begins another life."""

    name: str
    pid: int
    samples: list[Sample] = field(default_factory=list)

    @property
    def length_s(self) -> float:
        return self.samples[-1].at - self.samples[0].at if self.samples else 0.0

    def points(self, of: Callable[[Sample], float | None]) -> list[tuple[float, float]]:
        """One of its figures over time, where it was answered."""
        return [(one.at, value) for one in self.samples if (value := of(one)) is not None]


@dataclass(frozen=True)
class Trend:
    """How one figure went over the steady part of a life."""

    first: float
    """Median of the steady part's first quarter."""
    last: float
    slope_h: float
    """Theil and Sen's, per hour."""
    length_s: float
    bound: float

    @property
    def grown(self) -> float:
        """What both measures agree on."""
        return min(self.last - self.first, self.slope_h * self.length_s / 3600)

    @property
    def is_flat(self) -> bool:
        return self.grown <= self.bound


def steady(points: Points) -> Points:
    """The part of a life that is judged; empty where it was too short."""
    if not points:
        return []
    begin, end = points[0][0], points[-1][0]
    begin += max(WARM_UP_S, (end - begin) * WARM_UP_SHARE)
    return [one for one in points if one[0] >= begin] if end - begin >= LEAST_S else []


def slope(points: Points) -> float:
    """The median of the slopes between all pairs of points, per second."""
    return statistics.median((y - x) / (b - a) for (a, x), (b, y) in itertools.combinations(points, 2))


def trend(points: Points, at_least: float, share: float) -> Trend | None:
    """The trend of a life's figure, which may grow by `at_least`, or by that share of what it was; None: too short."""
    judged = steady(points)
    if not judged:
        return None
    quarter = max(1, len(judged) // 4)
    first = statistics.median(value for _, value in judged[:quarter])
    last = statistics.median(value for _, value in judged[-quarter:])
    length_s = judged[-1][0] - judged[0][0]
    return Trend(first, last, slope(judged) * 3600, length_s, max(at_least, share * first))


def memory(life: ProcessSamples) -> Trend | None:
    """MiB, without the indexes of messages, which a server may keep up to a bound."""
    indexes = life.points(lambda one: one.memory_mib - (one.search_index_bytes or 0.0) / 2**20)
    return trend(indexes, MEMORY_MIB, MEMORY_SHARE)


def tasks(life: ProcessSamples) -> Trend | None:
    """Tasks of the event loop, as there would be with the life's usual number of connections: clients move to whoever
    lives, and every connection has tasks of its own."""
    seen = [one for one in life.samples if one.tasks is not None]
    each = per_connection(seen)
    usual = statistics.median(one.connections or 0.0 for one in seen) if seen else 0.0
    points = [(one.at, (one.tasks or 0.0) - each * ((one.connections or 0.0) - usual)) for one in seen]
    return trend(points, COUNT, COUNT_SHARE)


def fds(life: ProcessSamples) -> Trend | None:
    """Open files, sockets among them, adjusted as the tasks are: a connection is one."""
    usual = statistics.median(one.connections or 0.0 for one in life.samples) if life.samples else 0.0
    seen = [one for one in life.samples if one.tasks is not None]
    return trend([(one.at, one.fds - (one.connections or 0.0) + usual) for one in seen], COUNT, COUNT_SHARE)


def per_connection(samples: Sequence[Sample]) -> float:
    """How many tasks a connection has, from how both move from one sample to the next."""
    moves = [
        ((two.connections or 0.0) - (one.connections or 0.0), (two.tasks or 0.0) - (one.tasks or 0.0))
        for one, two in itertools.pairwise(samples)
    ]
    found = [tasks / connections for connections, tasks in moves if abs(connections) >= 3]
    return statistics.median(found) if found else 0.0


# -- the picture -----------------------------------------------------------------------------------------------------

WIDTH, PANEL, GAP, LEFT, RIGHT, TOP = 960, 170, 46, 64, 16, 56
COLOURS = ("#1f5fa8", "#c2571a", "#2f8f4e", "#7a4fa3", "#a08000", "#8a8a8a", "#b03060")
PANELS: tuple[tuple[str, Callable[[Sample], float | None]], ...] = (
    ("memory of its own, MiB", lambda one: one.memory_mib),
    ("tasks of the event loop", lambda one: one.tasks),
    ("connections", lambda one: one.connections),
)


def picture(lives: Sequence[ProcessSamples], marks: Sequence[tuple[float, str]]) -> str:
    """Every figure of `PANELS` over the minutes of the run, a line for each life and a mark for each fault, as SVG."""
    end = max((one.samples[-1].at for one in lives if one.samples), default=1.0) or 1.0
    names = sorted({life.name for life in lives}, key=lambda name: (name[0].isupper(), name))  # ours, then the engines
    colour = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}
    height = TOP + len(PANELS) * (PANEL + GAP)
    parts = [_legend(colour)]
    for number, (title, of) in enumerate(PANELS):
        lines = [(life.name, life.points(of)) for life in lives]
        parts.append(_panel(title, TOP + number * (PANEL + GAP), end, lines, colour, marks, numbered=number == 0))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{WIDTH}" height="{height}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _legend(colour: Mapping[str, str]) -> str:
    parts, x = [], LEFT
    for name, stroke in colour.items():
        parts.append(f'<rect x="{x}" y="10" width="14" height="4" fill="{stroke}"/>')
        parts.append(f'<text x="{x + 19}" y="16">{name}</text>')
        x += 34 + 7 * len(name)
    parts.append(f'<text x="{WIDTH - RIGHT}" y="16" text-anchor="end" fill="#666">dashed: faults, by number</text>')
    return "".join(parts)


def _panel(
    title: str,
    top: int,
    end: float,
    lines: Sequence[tuple[str, Points]],
    colour: Mapping[str, str],
    marks: Sequence[tuple[float, str]],
    *,
    numbered: bool,
) -> str:
    highest = _round_up(max((value for _, points in lines for _, value in points), default=1.0))
    width, bottom = WIDTH - LEFT - RIGHT, top + PANEL

    def x(at: float) -> str:
        return f"{LEFT + width * at / end:.1f}"

    def y(value: float) -> str:
        return f"{bottom - PANEL * value / highest:.1f}"

    parts = []
    for step in range(5):
        value = highest * step / 4
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value)}" y2="{y(value)}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{float(y(value)) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for minute in range(0, int(end // 60) + 1, max(1, round(end / 600))):
        parts.append(f'<text x="{x(minute * 60)}" y="{bottom + 15}" text-anchor="middle">{minute}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{bottom + 28}" text-anchor="end" fill="#666">minutes</text>')
    for at, label in marks:
        parts.append(
            f'<line x1="{x(at)}" x2="{x(at)}" y1="{top}" y2="{bottom}" stroke="#c8a0a0" stroke-dasharray="3 3"/>'
        )
        if numbered:
            parts.append(
                f'<text x="{x(at)}" y="{top - 4}" text-anchor="middle" font-size="9" fill="#a05050">{label}</text>'
            )
    for name, points in lines:
        path = " ".join(f"{x(at)},{y(value)}" for at, value in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour[name]}" stroke-width="1.6"/>')
    shown = top - 16 if numbered else top - 6
    parts.append(f'<text x="{LEFT}" y="{shown}" font-weight="bold">{title}</text>')
    return "".join(parts)


def _round_up(value: float) -> float:
    """A round number that is not smaller, of which a quarter is round, too."""
    unit = 1.0
    while unit * 40 < value:
        unit *= 10
    return next(unit * step for step in (4, 8, 12, 16, 20, 24, 32, 40) if unit * step >= value)
