"""Adapters of `store.ports` over Redis, for what may be lost: presence, tickets, quotas, and a copy of revocations.

Every key has the one hash tag (`redis_connection.HASH_TAG`), so that in a cluster all are on one node. May import the
ports, `redis_connection`, values and errors.
"""
