"""What a server does with what other instances send, and with the erasure of a user."""

from __future__ import annotations

from twin_sio.delivery.messages import (
    Broadcast,
    CloseOlderConnections,
    Reconcile,
    StopTurn,
    TurnChanged,
    TurnsPending,
    UserErased,
)
from twin_sio.gateway import Gateway
from twin_sio.runtime.services import Services


class InstanceMessages:
    """Dispatches the messages of other instances to what they concern."""

    def __init__(self, services: Services, gateway: Gateway) -> None:
        self._services = services
        self._gateway = gateway

    def on_control(self, message: Broadcast) -> None:
        """Do what the message says. Repeats, and messages about users who are not here, change nothing."""
        match message:
            case StopTurn(user_id, turn_id):
                self._services.runner.on_stop(user_id, turn_id)
            case TurnChanged(user_id, conversation_id):
                self._services.runner.on_changed(user_id, conversation_id)
            case TurnsPending(user_id, conversation_id):
                self._services.runner.on_owed(user_id, conversation_id)
            case CloseOlderConnections(user_id, session_id, keep):
                self._gateway.sessions.on_replace(user_id, session_id, keep)
            case UserErased(user_id, epoch):
                self._services.fence.rise(user_id, epoch)  # which calls `on_erased`, at the first time
                self._forget(user_id)  # what was read while it was removed
            case Reconcile():
                self._services.delivery.reconcile()

    def on_erased(self, user_id: str, epoch: int) -> None:
        """Hold nothing more of the user in memory, however this instance has come to know of the erasure."""
        self._forget(user_id)
        self._services.delivery.on_erased(user_id, epoch)
        self._services.runner.on_erased(user_id, epoch)
        self._gateway.sessions.on_erased(user_id, epoch)

    def _forget(self, user_id: str) -> None:
        services = self._services
        services.profile_cache.forget(user_id)
        services.profile_service.forget(user_id)
        services.statistics_service.forget(user_id)
        services.indexes.forget(user_id)
