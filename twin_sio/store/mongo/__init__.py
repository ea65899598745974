"""MongoDB through Motor, the system of record: an adapter of `store.ports` in each file.

The only package that knows the driver. May import the ports, values and errors.
"""

from __future__ import annotations

from twin_sio.store.mongo.client import Database, check_rights, connect, ping
from twin_sio.store.mongo.contexts import MongoConnectSnapshots, MongoContexts
from twin_sio.store.mongo.events import MongoLog
from twin_sio.store.mongo.failures import explain
from twin_sio.store.mongo.indexes import INDEXES, apply_retention, create_indexes
from twin_sio.store.mongo.memories import MongoMemories
from twin_sio.store.mongo.models import MongoModelDialects, MongoModelVerdicts
from twin_sio.store.mongo.outbox import MongoOutbox
from twin_sio.store.mongo.personal_data import MongoPersonalData
from twin_sio.store.mongo.profiles import MongoProfiles
from twin_sio.store.mongo.reencryption import SEALED_FIELDS, reencrypt
from twin_sio.store.mongo.revocations import MongoRevocations
from twin_sio.store.mongo.runs import MongoHostTools, MongoRuns
from twin_sio.store.mongo.statistics import MongoStatistics
from twin_sio.store.mongo.turns import MongoTurns

__all__ = [
    "INDEXES",
    "SEALED_FIELDS",
    "Database",
    "MongoConnectSnapshots",
    "MongoContexts",
    "MongoHostTools",
    "MongoLog",
    "MongoMemories",
    "MongoModelDialects",
    "MongoModelVerdicts",
    "MongoOutbox",
    "MongoPersonalData",
    "MongoProfiles",
    "MongoRevocations",
    "MongoRuns",
    "MongoStatistics",
    "MongoTurns",
    "apply_retention",
    "check_rights",
    "connect",
    "create_indexes",
    "explain",
    "ping",
    "reencrypt",
]
