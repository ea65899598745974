"""What a server has that a worker has not: authentication, the gateway and its handlers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twin_sio import clock
from twin_sio.auth import Authenticator, JwksKeys, Keys, SharedSecrets
from twin_sio.config import Settings
from twin_sio.delivery.messages import (
    Broadcast,
    CloseOlderConnections,
    Reconcile,
    StopTurn,
    TurnsPending,
    UserErased,
)
from twin_sio.gateway import Gateway
from twin_sio.gateway.admission import Admission
from twin_sio.gateway.budgets import Budgets
from twin_sio.gateway.sessions import GatewaySettings, GatewayStats, Sessions
from twin_sio.handlers.context import HostContext
from twin_sio.handlers.conversation import Conversation
from twin_sio.handlers.history import HistoryHandlers
from twin_sio.handlers.presence import PresenceHandlers
from twin_sio.handlers.profile import ProfileHandlers
from twin_sio.runtime.wiring import Services
from twin_sio.store import mongo
from twin_sio.store.redis.revocations import RedisRevocations
from twin_sio.transport.client_address import TrustedProxies


@dataclass(frozen=True, slots=True)
class EdgeDeps:
    """What sockets and HTTP have in common."""

    authenticator: Authenticator
    revocations: RedisRevocations
    proxies: TrustedProxies


def build_edge_deps(settings: Settings, parts: Services) -> EdgeDeps:
    """Who may use this instance, and from which address a request comes."""
    channels = parts.delivery.channels
    records = mongo.MongoRevocations(parts.db, clock.now)
    revocations = RedisRevocations(channels.redis, records, parts.fence.ids, clock.now, lambda: channels.healthy)
    return EdgeDeps(
        Authenticator(
            _keys(settings),
            algorithms=settings.auth.jwt_algorithms,
            issuer=settings.auth.jwt_issuer,
            audience=settings.auth.jwt_audience,
            leeway_s=settings.auth.jwt_leeway_s,
            default_scopes=settings.auth.default_scopes,
            revocations=revocations,
        ),
        revocations,
        TrustedProxies(settings.server.trusted_proxies),
    )


def build_gateway(settings: Settings, parts: Services, edges: EdgeDeps) -> Gateway:
    """What the transports call, down to the handlers."""
    context = HostContext(parts.contexts, parts.delivery, parts.limits, clock.now, clock.new_id)
    conversation = Conversation(
        messages=parts.messages,
        turns=parts.runner,
        delivery=parts.delivery,
        context=context,
        limits=parts.limits,
        profile=parts.keeper,
        jobs=parts.queue,
        clock=clock.now,
        new_id=clock.new_id,
    )
    presence = PresenceHandlers(parts.messages, parts.presence, parts.delivery, parts.limits, clock.now, clock.new_id)
    history = HistoryHandlers(parts.messages, clock.now, clock.new_id)
    profile = ProfileHandlers(parts.keeper, parts.limits, clock.now, clock.new_id)
    bounds = GatewaySettings(
        connection_queue=settings.tuning.connection_queue,
        events_per_second=settings.limits.events_per_second,
        messages_per_minute=settings.limits.messages_per_minute,
        knocks_per_minute=settings.limits.connects_per_address,
        sessions=settings.limits.sessions,
        heartbeat_interval_ms=settings.server.heartbeat_interval_ms,
        auth_expiring_s=settings.tuning.auth_expiring_s,
        leeway_s=settings.auth.jwt_leeway_s,
    )
    stats, budgets = GatewayStats(), Budgets(settings.limits.events_per_second)
    sessions = Sessions(
        delivery=parts.delivery,
        connections=parts.delivery.connections,
        presence=parts.presence,
        revocations=edges.revocations,
        limits=parts.limits,
        stats=stats,
        settings=bounds,
        instance=parts.delivery.channels.instance[:8],
        clock=clock.now,
        new_id=clock.new_id,
    )
    admission = Admission(
        sessions,
        budgets,
        delivery=parts.delivery,
        authenticator=edges.authenticator,
        snapshots=mongo.MongoStandings(parts.db, parts.fence),
        presence=parts.presence,
        context=context,
        limits=parts.limits,
        proxies=edges.proxies,
        stats=stats,
        settings=bounds,
        clock=clock.now,
        new_id=clock.new_id,
    )
    return Gateway(
        sessions,
        admission,
        budgets,
        delivery=parts.delivery,
        limits=parts.limits,
        handlers={
            "user_message": conversation.user_message,
            "stop_generation": conversation.stop_generation,
            "regenerate": conversation.regenerate,
            "feedback": conversation.feedback,
            "context_update": context.context_update,
            "typing_indicator": presence.typing_indicator,
            "read_receipt": presence.read_receipt,
            "heartbeat": presence.heartbeat,
            "resume": presence.resume,
            "history": history.history,
            "conversations": history.conversations,
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


def control_messages(gateway: Gateway, parts: Services) -> Callable[[Broadcast], None]:
    """What this instance does with each message of another."""
    runner = parts.runner

    def on_control(message: Broadcast) -> None:
        match message:
            case StopTurn(user_id, turn_id):
                runner.on_stop(user_id, turn_id)
            case TurnsPending(user_id, conversation_id):
                runner.on_owed(user_id, conversation_id)
            case CloseOlderConnections(user_id, session_id, keep):
                gateway.sessions.on_replace(user_id, session_id, keep)
            case UserErased(user_id, epoch):
                parts.fence.rise(user_id, epoch)
            case Reconcile():
                gateway.reconcile()

    def risen(user_id: str, epoch: int) -> None:
        """However this instance has come to know that the user was erased."""
        parts.known.forget(user_id)
        parts.keeper.forget(user_id)
        parts.statistician.forget(user_id)
        if parts.vectors is not None:
            parts.vectors.forget(user_id)
        parts.keeper.forget(user_id)
        parts.delivery.on_erased(user_id)
        runner.on_erased(user_id)
        gateway.sessions.on_erased(user_id, epoch)

    parts.fence.on_risen = risen
    return on_control
