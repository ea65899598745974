"""The objects that a process is made of; `wiring` builds them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twin_sio.agent import Extractor, ProfileContext
from twin_sio.agent.model import OpenAIModel
from twin_sio.delivery import Delivery
from twin_sio.delivery.messages import Broadcast
from twin_sio.jobs.exchanges import ExchangeReader
from twin_sio.jobs.functions import JobDeps, JobStats
from twin_sio.jobs.queue import Queue
from twin_sio.observability.durations import Durations
from twin_sio.observability.overload import OverloadMonitor
from twin_sio.services.approvals import ApprovalService
from twin_sio.services.erasure import ErasureService
from twin_sio.services.extraction_path import ExtractionStats
from twin_sio.services.graph_projection import GraphProjectionService
from twin_sio.services.limits import Limits
from twin_sio.services.memory import MemoryService
from twin_sio.services.migration import MigrationService
from twin_sio.services.profile import ProfileService
from twin_sio.services.recall import Recall
from twin_sio.services.search import MessageSearch
from twin_sio.services.statistics import StatisticsService
from twin_sio.services.turns import TurnService
from twin_sio.store import mongo
from twin_sio.store.cache import CachedProfiles, LineIndexes
from twin_sio.store.mongo.fence import Fence
from twin_sio.store.ports import Outbox
from twin_sio.store.redis.presence import RedisPresence


@dataclass(frozen=True, slots=True)
class ServerHooks:
    """What a server adds to the services. They are made first, since the gateway needs them, so these are called only
    once `Delivery.start` was, which the server calls when its own parts are there."""

    on_control: Callable[[Broadcast], None] = lambda _: None  # with each message of another instance
    on_erased: Callable[[str, int], None] = lambda *_: None  # with a user and the epoch since their erasure
    load: Callable[[], float] = lambda: 0.0  # how many of its connections are in use, as a share of their limit


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that the server and the worker have in common, from the stores to the services."""

    db: mongo.Database
    messages: mongo.MongoLog
    turns: mongo.MongoTurns
    contexts: mongo.MongoContexts
    profiles: mongo.MongoProfiles
    profile_cache: CachedProfiles[ProfileContext]
    indexes: LineIndexes
    search: MessageSearch
    personal: mongo.MongoPersonalData
    fence: Fence
    presence: RedisPresence
    erasure: ErasureService
    migration: MigrationService
    delivery: Delivery
    runner: TurnService
    runs: mongo.MongoRuns
    # None where apps may offer no tools.
    host_tools: mongo.MongoHostTools | None
    approvals: ApprovalService
    profile_service: ProfileService
    memory: MemoryService
    statistics: mongo.MongoStatistics
    statistics_service: StatisticsService
    graph_projection: GraphProjectionService | None
    model: OpenAIModel
    extractor: Extractor
    extraction: ExtractionStats
    queue: Queue
    limits: Limits
    load: OverloadMonitor
    recall: Recall
    # The versions of profiles that the graph does not have yet; None without a graph.
    outbox: Outbox | None
    job_timeout_s: float
    durations: Durations

    def job_deps(self, stats: JobStats | None = None) -> JobDeps:
        """The part of it that the job functions use; `stats` receives their durations."""
        return JobDeps(
            stats=stats or JobStats(),
            messages=self.messages,
            turns=self.turns,
            exchanges=ExchangeReader(self.messages, self.turns),
            profiles=self.profiles,
            runner=self.runner,
            profile_service=self.profile_service,
            memory=self.memory,
            statistics_service=self.statistics_service,
            extractor=self.extractor,
            queue=self.queue,
            graph_projection=self.graph_projection,
            erasure=self.erasure,
            migration=self.migration,
            job_timeout_s=self.job_timeout_s,
        )
