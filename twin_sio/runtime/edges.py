"""What a server has that a worker has not: authentication, the gateway and its handlers."""

from __future__ import annotations

from dataclasses import dataclass

from twin_sio import clock
from twin_sio.auth import Authenticator, JwksKeys, Keys, SharedSecrets
from twin_sio.config import Settings
from twin_sio.gateway import Gateway
from twin_sio.gateway.admission import Admission
from twin_sio.gateway.budgets import Budgets
from twin_sio.gateway.sessions import GatewaySettings, GatewayStats, Sessions
from twin_sio.handlers.context import HostContext
from twin_sio.handlers.conversation import Conversation
from twin_sio.handlers.history import HistoryHandlers
from twin_sio.handlers.presence import PresenceHandlers
from twin_sio.handlers.profile import ProfileHandlers
from twin_sio.handlers.tools import ToolHandlers
from twin_sio.runtime.services import Services
from twin_sio.store import mongo
from twin_sio.store.redis.revocations import RedisRevocations
from twin_sio.transport.client_address import TrustedProxies


@dataclass(frozen=True, slots=True)
class EdgeDeps:
    """What sockets and HTTP have in common."""

    authenticator: Authenticator
    revocations: RedisRevocations
    proxies: TrustedProxies


def build_edge_deps(settings: Settings, services: Services) -> EdgeDeps:
    """Who may use this instance, and from which address a request comes."""
    channels = services.delivery.channels
    records = mongo.MongoRevocations(services.db, clock.now)
    revocations = RedisRevocations(channels.redis, records, services.fence.ids, clock.now, lambda: channels.healthy)
    return EdgeDeps(
        Authenticator(
            _keys(settings),
            algorithms=settings.auth.jwt_algorithms,
            issuer=settings.auth.jwt_issuer,
            audience=settings.auth.jwt_audience,
            leeway_s=settings.auth.jwt_leeway_s,
            default_scopes=settings.auth.default_scopes,
            scope_map=settings.auth.scopes_by_foreign,
            revocations=revocations,
        ),
        revocations,
        TrustedProxies(settings.server.trusted_proxies),
    )


def build_gateway(settings: Settings, services: Services, edges: EdgeDeps) -> Gateway:
    """What the transports call, down to the handlers."""
    context = HostContext(services.contexts, services.delivery, services.limits, clock.now, clock.new_id)
    conversation = Conversation(
        messages=services.messages,
        turns=services.runner,
        delivery=services.delivery,
        context=context,
        limits=services.limits,
        profile=services.profile_service,
        jobs=services.queue,
        clock=clock.now,
        new_id=clock.new_id,
    )
    tools = ToolHandlers(
        offered=services.host_tools,
        runs=services.runs,
        approvals=services.approvals,
        turns=services.runner,
        limits=services.limits,
        clock=clock.now,
        new_id=clock.new_id,
    )
    presence = PresenceHandlers(
        services.messages, services.presence, services.delivery, services.limits, clock.now, clock.new_id
    )
    history = HistoryHandlers(
        services.messages, services.search, services.approvals, services.limits, clock.now, clock.new_id
    )
    profile = ProfileHandlers(services.profile_service, services.limits, clock.now, clock.new_id)
    bounds = GatewaySettings(
        limits=settings.limits,
        tuning=settings.tuning,
        heartbeat_interval_ms=settings.server.heartbeat_interval_ms,
        leeway_s=settings.auth.jwt_leeway_s,
    )
    stats, budgets = GatewayStats(), Budgets(settings.limits.events_per_second)
    sessions = Sessions(
        delivery=services.delivery,
        connections=services.delivery.connections,
        presence=services.presence,
        revocations=edges.revocations,
        limits=services.limits,
        stats=stats,
        settings=bounds,
        on_revoked=services.indexes.forget,
        instance=services.delivery.channels.instance[:8],
        clock=clock.now,
        new_id=clock.new_id,
        on_left=tools.left,
    )
    admission = Admission(
        sessions,
        budgets,
        delivery=services.delivery,
        authenticator=edges.authenticator,
        snapshots=mongo.MongoConnectSnapshots(services.db, services.fence),
        presence=services.presence,
        context=context,
        limits=services.limits,
        proxies=edges.proxies,
        stats=stats,
        settings=bounds,
        on_erased=services.fence.rise,
        clock=clock.now,
        new_id=clock.new_id,
    )
    return Gateway(
        sessions,
        admission,
        budgets,
        delivery=services.delivery,
        limits=services.limits,
        handlers={
            "user_message": conversation.user_message,
            "stop_generation": conversation.stop_generation,
            "regenerate": conversation.regenerate,
            "feedback": conversation.feedback,
            "host_tools": tools.host_tools,
            "tool_result": tools.tool_result,
            "approval": tools.approval,
            "context_update": context.context_update,
            "typing_indicator": presence.typing_indicator,
            "read_receipt": presence.read_receipt,
            "heartbeat": presence.heartbeat,
            "resume": presence.resume,
            "history": history.history,
            "conversations": history.conversations,
            "search": history.search,
            "profile_get": profile.profile_get,
            "profile_correct": profile.profile_correct,
        },
        stats=stats,
        settings=bounds,
        clock=clock.now,
        new_id=clock.new_id,
    )


def _keys(settings: Settings) -> Keys:
    if settings.auth.jwt_jwks_url:
        return JwksKeys(settings.auth.jwt_jwks_url)
    return SharedSecrets(settings.auth.jwt_secret.get_secret_value(), *settings.auth.previous_secrets)
