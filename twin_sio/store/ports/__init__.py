"""The interfaces of the stores, with their guarantees. Adapters: `store.mongo`, `store.redis`, `store.graphiti`.

Every method may raise `StorageUnavailable`; then nothing is promised to have been stored, and asking again is safe.
"""

from __future__ import annotations

from twin_sio.store.ports.events import AppendResult, ConversationSummary, Log, Page
from twin_sio.store.ports.graph import Facts, GraphUnavailable, Outbox, Projection
from twin_sio.store.ports.memories import LINE_CHARACTERS, Memories, MessageVector, StoredLine, Summary, Thread
from twin_sio.store.ports.models import ModelDialects, ModelVerdict, ModelVerdicts
from twin_sio.store.ports.personal_data import Erased, Migrations, MigrationStep, PersonalData
from twin_sio.store.ports.profiles import SCORING_VERSION, ConnectSnapshot, ConnectSnapshots, Profiles, StoredProfile
from twin_sio.store.ports.quotas import Quota, Quotas
from twin_sio.store.ports.runs import HostTools, Runs
from twin_sio.store.ports.sessions import (
    TICKET_S,
    Contexts,
    LiveSession,
    Presence,
    RevocationRecords,
    Revocations,
    Tickets,
)
from twin_sio.store.ports.statistics import Answers, Statistics
from twin_sio.store.ports.turns import Turns

__all__ = [
    "LINE_CHARACTERS",
    "SCORING_VERSION",
    "TICKET_S",
    "Answers",
    "AppendResult",
    "ConnectSnapshot",
    "ConnectSnapshots",
    "Contexts",
    "ConversationSummary",
    "Erased",
    "Facts",
    "GraphUnavailable",
    "HostTools",
    "LiveSession",
    "Log",
    "Memories",
    "MessageVector",
    "MigrationStep",
    "Migrations",
    "ModelDialects",
    "ModelVerdict",
    "ModelVerdicts",
    "Outbox",
    "Page",
    "PersonalData",
    "Presence",
    "Profiles",
    "Projection",
    "Quota",
    "Quotas",
    "RevocationRecords",
    "Revocations",
    "Runs",
    "Statistics",
    "StoredLine",
    "StoredProfile",
    "Summary",
    "Thread",
    "Tickets",
    "Turns",
]
