"""Metrics for operators, in the text format of Prometheus: read from the services on request, never with a user's id
or text in them. Those that the server and the worker have in common, and those of one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from twin_sio.agent.statistics import from_stored, rate
from twin_sio.domain import Json
from twin_sio.errors import StorageUnavailable
from twin_sio.gateway import Gateway
from twin_sio.observability.durations import JobDurations
from twin_sio.runtime.services import Services
from twin_sio.transport import Transport


class CommonMetrics:
    """The metrics of both kinds of processes. `render` collects them."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.registry = CollectorRegistry()
        self.registry.register(self)
        # Asked for before the registry is read, since that cannot wait; kept while a store is away.
        self._lag_s = 0.0
        self._outbox_length: int | None = None

    async def render(self) -> bytes:
        """The text format of Prometheus. A store that cannot be reached shows its last values."""
        self._lag_s = await self._services.queue.lag_s()
        if self._services.outbox is not None:
            with suppress(StorageUnavailable):
                self._outbox_length = await self._services.outbox.length()
        return generate_latest(self.registry) + generate_latest(self._services.durations.registry)

    def collect(self) -> Iterator[Metric]:
        """For the registry: what the parts have counted."""
        services = self._services
        channels = self._services.delivery.channels
        stats = self._services.runner.stats
        hits, misses = services.profile_cache.hits, services.profile_cache.misses
        yield _gauge("twin_redis_healthy", "1: this process receives what it publishes.", channels.healthy)
        yield _counter(
            "twin_redis_probe_failures",
            "Probe messages not received in time; the subscriber connection was replaced.",
            channels.probe_failures,
        )
        yield _counter("twin_redis_outages", "Times that Redis could no longer be reached.", channels.outages)
        yield _gauge("twin_tasks", "Tasks of the event loop.", len(asyncio.all_tasks()))
        yield _gauge("twin_conversations_answering", "Conversations being answered.", services.runner.running)
        yield _gauge("twin_conversations_waiting", "Conversations waiting for a free slot.", services.runner.waiting)
        yield _gauge(
            "twin_turns_generating", "Conversations whose answer the model is generating.", services.runner.generating
        )
        yield _counters("twin_turns", "Turns ended by this process.", ["status"], stats.finished)
        yield _counter("twin_turns_suspended", "Times that an answer began to wait for its user.", stats.suspended)
        yield _counter("twin_turn_take_overs", "Turns taken over from elsewhere.", stats.take_overs)
        yield _counter("twin_turns_given_up", "Turns given up after two instances lost their lease.", stats.given_up)
        yield _gauge("twin_queue_lag_seconds", "Age of the oldest job that is due.", self._lag_s)
        yield _counters(
            "twin_profile_reads", "Profiles read for a prompt, from memory or not.", ["cached"],
            {"yes": hits, "no": misses},
        )  # fmt: skip
        yield _counters("twin_limits_hit", "Refusals, by limit.", ["limit"], services.limits.hit)
        yield _gauge(
            "twin_search_index_bytes", "Memory of the indexes of users' messages, about.", services.indexes.held_bytes
        )
        yield _counters(
            "twin_recall_late", "Recalls that were too late for their answer.", ["what"], services.recall.late
        )
        yield from self._model()
        outbox = GaugeMetricFamily("twin_graph_outbox", "Versions of profiles that are not in the graph yet.")
        if self._outbox_length is not None:
            outbox.add_metric([], self._outbox_length)
        yield outbox

    def _model(self) -> Iterator[Metric]:
        counts = self._services.model.tokens
        yield _counters(
            "twin_model_tokens", "Tokens, as the model's endpoint reports them.", ["purpose", "kind"], counts
        )
        path = GaugeMetricFamily("twin_extraction_path", "1 for what reads users' messages.", labels=["path"])
        path.add_metric([self._services.extraction.path], 1.0)
        yield path
        yield _counters(
            "twin_extraction_calls",
            "Calls of the model to read users' messages (skipped: none needed; followed: it followed an order in one).",
            ["call"],
            self._services.extraction.calls,
        )


class ServerMetrics(CommonMetrics):
    """The metrics of a server."""

    def __init__(
        self,
        services: Services,
        gateway: Gateway,
        transports: Sequence[Transport],
    ) -> None:
        super().__init__(services)
        self._gateway = gateway
        self._transports = transports
        self._profile_metrics = _ProfileMetrics(self.registry)

    async def render(self) -> bytes:
        with suppress(StorageUnavailable):  # then the last values stay
            self._profile_metrics.show(await self._services.statistics.total())
        return await super().render()

    def collect(self) -> Iterator[Metric]:
        yield from super().collect()
        delivery = self._services.delivery
        yield _gauge("twin_connections", "Authenticated connections.", self._gateway.connections)
        yield _gauge("twin_users", "Users with a connection.", self._gateway.users)
        yield _gauge("twin_draining", "1: this instance is draining.", self._gateway.sessions.draining)
        sockets = sum(transport.open_sockets for transport in self._transports)
        yield _gauge("twin_sockets", "Open sockets, authenticated or not.", sockets)
        buffered = sum(transport.total_buffered_bytes for transport in self._transports)
        yield _gauge("twin_buffered_bytes", "Bytes buffered for clients.", buffered)
        yield _counters("twin_events", "Events handled.", ["type"], self._gateway.stats.handled)
        yield _counters("twin_errors", "Errors sent to clients.", ["code"], self._gateway.stats.errors)
        yield _counter(
            "twin_instance_messages_received",
            "Messages received from other instances.",
            delivery.channels.messages_received,
        )
        yield _counter("twin_slow_consumers_closed", "Connections closed for reading too slowly.", delivery.slow_aborts)
        yield _counters("twin_resumes", "Resumes served, complete or not.", ["complete"], delivery.resumes)
        # Since the last scrape: between two of them the worst would otherwise be gone.
        worst = self._services.load.take_worst_lag()
        yield _gauge("twin_loop_lag_seconds", "Longest delay of the event loop since the last scrape.", worst)
        yield _gauge("twin_load", "Load as a share of the nearest overload watermark.", self._services.load())


class WorkerMetrics(CommonMetrics):
    """The metrics of a worker."""

    def __init__(self, services: Services, jobs: JobDurations) -> None:
        super().__init__(services)
        self._jobs = jobs

    async def render(self) -> bytes:
        return await super().render() + generate_latest(self._jobs.registry)


def _gauge(name: str, doc: str, value: float) -> Metric:
    return GaugeMetricFamily(name, doc, value=float(value))


def _counter(name: str, doc: str, value: float) -> Metric:
    return CounterMetricFamily(name, doc, value=value)


def _counters(
    name: str, doc: str, labels: list[str], values: Mapping[str, float] | Mapping[tuple[str, str], float]
) -> Metric:
    family = CounterMetricFamily(name, doc, labels=labels)
    for key, value in values.items():
        family.add_metric([key] if isinstance(key, str) else list(key), value)
    return family


class _ProfileMetrics:
    """What became of what was learnt of all users, as it was counted last."""

    def __init__(self, registry: CollectorRegistry) -> None:
        by = ["status", "kind", "extractor"]
        self._traits = Gauge("twin_traits", "Traits, by what taught them first.", by, registry=registry)
        self._rejected = Gauge(
            "twin_trait_reject_rate", "Share of rejected traits, with its 95 % interval.", ["bound"], registry=registry
        )
        self._contradicted = Gauge(
            "twin_trait_contradiction_rate", "Share of traits the user also spoke against.", registry=registry
        )
        self._within = Gauge(
            "twin_traits_applied_within", "Traits applied within so many seconds.", ["le"], registry=registry
        )
        self._answers = Gauge(
            "twin_answers_counted",
            "Answers, by whether a trait was in the prompt.",
            ["using_traits"],
            registry=registry,
        )

    def show(self, total: Json) -> None:
        counts = from_stored(total)
        # What is no longer counted, as an extractor that was replaced, must not stay at its last value.
        self._traits.clear()
        for (kind, extractor, status), count in counts.traits.items():
            self._traits.labels(status, kind, extractor).set(count)
        rejected = rate(counts.having("rejected"), counts.total)
        for bound in ("low", "rate", "high"):
            self._rejected.labels(bound).set(rejected[bound] or 0.0)
        self._contradicted.set(rate(counts.contradicted, counts.total)["rate"] or 0.0)
        for row in total.get("within", ()):
            # As Prometheus writes the last bucket of a histogram.
            self._within.labels(f"{row['bound_s']:g}".replace("inf", "+Inf")).set(row["count"])
        self._answers.labels("yes").set(counts.answers_using)
        self._answers.labels("no").set(counts.answers - counts.answers_using)
