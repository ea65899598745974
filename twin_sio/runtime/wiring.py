"""Builds the services that the server and the worker have in common, and gives each what it needs."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial

import httpx2
import structlog

from twin_sio import clock
from twin_sio.agent import Embedder, Extractor, profile_prompt
from twin_sio.agent.embeddings import EndpointEmbedder, LocalEmbedder
from twin_sio.agent.extraction.model import ModelExtractor
from twin_sio.agent.extraction.rule_extractor import RulesExtractor
from twin_sio.agent.model import Keep, OpenAIModel
from twin_sio.agent.model.connection import trusted
from twin_sio.agent.reading import ProcessReader
from twin_sio.agent.summarizer import ModelSummarizer
from twin_sio.config import DEFAULT_MODEL, ConfigError, Settings, refused_as
from twin_sio.delivery import Delivery
from twin_sio.domain import Json
from twin_sio.jobs.queue import Queue
from twin_sio.observability.durations import Durations
from twin_sio.observability.overload import OverloadMonitor
from twin_sio.runtime.agents import build_agent
from twin_sio.runtime.services import ServerHooks, Services
from twin_sio.services.approvals import ApprovalService
from twin_sio.services.attempt import TurnStats
from twin_sio.services.erasure import ErasureService
from twin_sio.services.extraction_path import ExtractionPath, ExtractionStats, model_id
from twin_sio.services.graph_projection import GraphProjectionService
from twin_sio.services.limits import Limits
from twin_sio.services.memory import MemoryService
from twin_sio.services.migration import MigrationService
from twin_sio.services.model_budget import BudgetedEmbedder, BudgetedModel
from twin_sio.services.profile import ProfileService
from twin_sio.services.recall import Recall
from twin_sio.services.runs import RunServices
from twin_sio.services.search import MessageSearch
from twin_sio.services.statistics import StatisticsService
from twin_sio.services.trait_ids import TraitIds
from twin_sio.services.turns import TurnService
from twin_sio.store import mongo
from twin_sio.store.cache import CachedProfiles, LineIndexes
from twin_sio.store.encryption import FieldCipher
from twin_sio.store.graphiti import GraphitiFacts
from twin_sio.store.mongo.fence import Fence
from twin_sio.store.mongo.keys import load_ids
from twin_sio.store.mongo.migrations import MongoMigrations
from twin_sio.store.ports import ModelVerdicts
from twin_sio.store.redis.presence import RedisPresence
from twin_sio.store.redis.quotas import RedisQuotas

log = structlog.get_logger("app")


def sealer_of(settings: Settings) -> FieldCipher:
    """The cipher that encrypts stored text; raises `ConfigError` for a key that is not a Fernet key."""
    keys = settings.storage.encryption_keys.get_secret_value().replace(",", " ").split()
    try:
        return FieldCipher(keys)
    except ValueError:
        raise ConfigError("TWIN_ENCRYPTION_KEYS must hold Fernet keys only (32 bytes, URL-safe base64).") from None


def check_http_environment() -> None:
    """Raise `ConfigError` where a variable for proxies or certificates cannot be used: every client of HTTP reads them
    when it is made, and raises whatever it likes."""
    try:
        httpx2.Client(verify=trusted()).close()
    except ImportError:
        raise ConfigError(
            "ALL_PROXY, HTTPS_PROXY or HTTP_PROXY names a SOCKS proxy, which needs a package: pip install socksio, or "
            "unset it, or name another proxy."
        ) from None
    except OSError:
        raise ConfigError("SSL_CERT_FILE or SSL_CERT_DIR holds no certificates: set it right, or unset it.") from None
    except ValueError:
        raise ConfigError("ALL_PROXY, HTTPS_PROXY or HTTP_PROXY is no URL of a proxy, as http://host:3128.") from None


@asynccontextmanager
async def build_services(settings: Settings, server: ServerHooks | None = None) -> AsyncIterator[Services]:
    """The services, connected; closed at the end. A `server` serves sessions, too, and starts the delivery itself; any
    other process only writes to them."""
    check_http_environment()
    hooks = server or ServerHooks()
    async with AsyncExitStack() as stack:
        with refused_as("TWIN_MONGODB_URL"):
            client, db = mongo.connect(
                settings.storage.mongodb_url, settings.storage.mongodb_database, settings.storage.mongodb_timeout_ms
            )
        stack.callback(client.close)
        sealer = sealer_of(settings)
        ids = await load_ids(db, sealer)
        # Before the stores: each of them writes behind it.
        fence = Fence(db, ids, hooks.on_erased)
        stack.push_async_callback(fence.close)
        messages = mongo.MongoLog(db, sealer, fence, expires=settings.storage.retention_messages_days > 0)
        turns = mongo.MongoTurns(db, clock.now, sealer, fence)
        contexts = mongo.MongoContexts(db, clock.now, settings.storage.context_ttl_s, sealer, fence)
        facts = facts_of(settings, sealer, stack)
        outbox = mongo.MongoOutbox(db, clock.now, sealer, fence)
        # Without a graph nobody would ever empty the outbox.
        graphed = outbox if facts is not None else None
        kept_for = (
            timedelta(days=settings.storage.retention_evidence_days)
            if settings.storage.retention_evidence_days
            else None
        )
        profiles = mongo.MongoProfiles(db, sealer, graphed, fence, kept_for=kept_for)
        memories = mongo.MongoMemories(db, sealer)
        # A URL that the library refuses is the operator's mistake, and is named by its variable.
        with refused_as("TWIN_REDIS_URL"):
            durations = Durations()
            delivery = Delivery(
                settings.storage.redis_url,
                clock=clock.now,
                new_id=clock.new_id,
                read=messages.read,
                heads=messages.heads,
                listen=server is not None,
                on_control=hooks.on_control,
                soft_bytes=settings.tuning.slow_soft_bytes,
                hard_bytes=settings.server.slow_hard_bytes,
                stuck_s=settings.tuning.slow_stuck_s,
                on_round_trip=durations.publish_lag,
            )
        if server is None:
            await delivery.start()
        stack.push_async_callback(delivery.stop)
        queue = Queue(delivery.channels.redis, clock.now, lambda: delivery.channels.healthy, ids.redis)
        model = await _model(settings, db)
        stack.push_async_callback(model.close)
        load = OverloadMonitor(
            settings.overload,
            lambda: runner.running,
            hooks.load,
        )
        channels = delivery.channels
        quotas = RedisQuotas(settings.storage.redis_url, channels.redis, clock.now, lambda: channels.healthy, ids.redis)
        limits = Limits(settings.limits, quotas, load)
        embedder = _embedder(settings, stack, model.tokens)
        indexes = LineIndexes(
            memories, embedder.model if embedder is not None else None, settings.tuning.embeddings_floor
        )
        search = MessageSearch(memories, indexes, embedder)
        weights, trait_ids = settings.scoring.weights, TraitIds(ids.subject)
        keeper = ProfileService(profiles, messages, delivery, clock.now, weights, trait_ids)
        known = CachedProfiles(
            profiles,
            partial(profile_prompt.known, budget_tokens=settings.model.prompt_budget_tokens),
            refresh=lambda user_id: keeper.refresh(user_id, []),
        )
        recall = Recall(
            messages,
            known,
            contexts,
            memories,
            search,
            facts,
            patience_s=settings.tuning.recall_ms / 1000,
            kept_for=kept_for,
            outbox=graphed,
        )
        presence = RedisPresence(channels.redis, clock.now, 3 * settings.tuning.stale_s, lambda: channels.healthy)
        runs = mongo.MongoRuns(db, clock.now, sealer, fence)
        host_tools = mongo.MongoHostTools(db, clock.now, sealer, fence) if settings.agent.host_tools else None
        approvals = ApprovalService(
            messages=messages,
            turns=turns,
            runs=runs,
            delivery=delivery,
            clock=clock.now,
            wait_s=settings.agent.approval_s,
        )
        runner = TurnService(
            owner=delivery.channels.instance,
            turns=turns,
            messages=messages,
            agent=await build_agent(settings, recall, model, stack),
            runs=RunServices(messages, runs, host_tools, presence, delivery, clock.now, clock.new_id),
            approvals=approvals,
            delivery=delivery,
            jobs=queue,
            limits=limits,
            clock=clock.now,
            new_id=clock.new_id,
            lease_s=settings.tuning.turn_lease_s,
            waiting_max=settings.tuning.turn_queue,
            owed_max=settings.tuning.pending_turns_per_user,
            concurrency=settings.model.concurrency,
            concurrency_per_user=settings.tuning.generations_per_user,
            stats=TurnStats(on_first_token=durations.first_token, on_chunk_gap=durations.chunk_gap),
        )
        personal = mongo.MongoPersonalData(db, sealer, fence, graphed)
        statistics = mongo.MongoStatistics(db, sealer, fence)
        reader = ProcessReader()
        budgeted = BudgetedModel(model, limits)
        extraction = ExtractionStats()
        stack.push_async_callback(reader.close)
        projector = None
        if facts is not None:
            projector = GraphProjectionService(outbox, facts, profiles, clock.now, weights, trait_ids)
        memory = MemoryService(
            messages,
            memories,
            ModelSummarizer(budgeted) if settings.model.background else None,
            BudgetedEmbedder(embedder, limits) if embedder is not None and settings.embeddings.url else embedder,
            clock.now,
            budget_tokens=settings.model.prompt_budget_tokens,
            retention_days=settings.storage.retention_messages_days,
        )
        yield Services(
            db=db,
            messages=messages,
            turns=turns,
            contexts=contexts,
            profiles=profiles,
            profile_cache=known,
            indexes=indexes,
            search=search,
            personal=personal,
            fence=fence,
            presence=presence,
            erasure=ErasureService(personal, presence, delivery, queue),
            migration=MigrationService(
                MongoMigrations(db, sealer, fence, graphed), profiles, trait_ids, keeper.rescore
            ),
            delivery=delivery,
            runner=runner,
            runs=runs,
            host_tools=host_tools,
            approvals=approvals,
            profile_service=keeper,
            memory=memory,
            statistics=statistics,
            statistics_service=StatisticsService(profiles, statistics, personal, keeper, clock.now, weights),
            graph_projection=projector,
            model=model,
            extractor=_extractor(settings, model, budgeted, reader, mongo.MongoModelVerdicts(db), extraction),
            extraction=extraction,
            queue=queue,
            limits=limits,
            load=load,
            job_timeout_s=settings.tuning.job_timeout_s * 0.9,  # before arq's own timeout, which names no cause
            recall=recall,
            outbox=outbox if facts is not None else None,
            durations=durations,
        )


async def _model(settings: Settings, db: mongo.Database) -> OpenAIModel:
    """The model, with what is known of its endpoint."""
    dialects = mongo.MongoModelDialects(db, clock.now)
    dialect_id = model_id(settings.model.base_url, settings.model.name or DEFAULT_MODEL, "dialect")
    return model_of(settings, await dialects.get(dialect_id), partial(dialects.put, dialect_id))


def model_of(settings: Settings, learnt: Json | None = None, keep: Keep | None = None) -> OpenAIModel:
    """The model that the settings name; `learnt` is known of its endpoint, `keep` stores what is learnt. The caller
    closes it."""
    return OpenAIModel(
        base_url=settings.model.base_url or None,
        api_key=settings.model.api_key.get_secret_value() or "none",
        model=settings.model.name or DEFAULT_MODEL,
        first_token_s=settings.model.first_token_s,
        reasoning_s=settings.model.reasoning_s,
        stall_s=settings.tuning.model_stall_s,
        complete_s=settings.tuning.job_timeout_s * 0.75,  # ends before the job that waits for it
        concurrency=settings.model.concurrency,
        max_tokens=settings.model.max_tokens,
        dialect=settings.model.dialect,
        learnt=learnt,
        keep=keep,
        shows_thoughts=settings.agent.shows_reasoning,
    )


def _extractor(
    settings: Settings,
    model: OpenAIModel,
    budgeted: BudgetedModel,
    reader: ProcessReader,
    verdicts: ModelVerdicts,
    stats: ExtractionStats,
) -> Extractor:
    """What reads users' messages. The test of a model is at nobody's expense."""
    rules, chosen = RulesExtractor(reader), settings.model.extraction
    if chosen == "rules" or not settings.model.background:
        stats.path = "rules"
        return rules
    # What a user's messages cost is on their account; the test of the model below is on nobody's.
    by_model = ModelExtractor(budgeted, rules, stats.calls)
    if chosen == "model":
        stats.path = "model"
        return by_model
    name = model_id(settings.model.base_url, model.name)
    return ExtractionPath(by_model, rules, ModelExtractor(model, rules), verdicts, name, clock.now, stats)


def facts_of(settings: Settings, sealer: FieldCipher, stack: AsyncExitStack) -> GraphitiFacts | None:
    """The graph, if one is configured; `stack` closes it. Raises `ConfigError` if its extra is not installed."""
    if not settings.storage.graph_url:
        return None
    if importlib.util.find_spec("graphiti_core") is None:
        raise ConfigError("TWIN_GRAPH_URL needs the extra `graphiti`: pip install 'twin-sio[graphiti]'.")
    with refused_as("TWIN_GRAPH_URL"):
        facts = GraphitiFacts(settings.storage.graph_url, sealer)
    stack.push_async_callback(facts.close)
    return facts


def _embedder(settings: Settings, stack: AsyncExitStack, token_counts: Counter[tuple[str, str]]) -> Embedder | None:
    """The model that finds related messages: the endpoint if one is configured, else the local model if installed."""
    if not settings.embeddings.url:
        if not LocalEmbedder.is_installed():
            return None
        try:
            return LocalEmbedder()
        except (ImportError, OSError, RuntimeError) as error:  # no home, or nothing that can be written
            meaning = "earlier messages are found by their words alone: give the process a HOME that it can write"
            log.warning("local_embeddings_unavailable", error=type(error).__name__, meaning=meaning)
            return None
    endpoint = EndpointEmbedder(
        base_url=settings.embeddings.url,
        api_key=settings.embeddings.key.get_secret_value() or settings.model.api_key.get_secret_value(),
        model=settings.embeddings.model,
        token_counts=token_counts,
    )
    stack.push_async_callback(endpoint.close)
    return endpoint
