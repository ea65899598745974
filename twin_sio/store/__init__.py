"""What is stored. `ports`: interfaces and their guarantees. `mongo`: the system of record. `redis`: what may be lost.

Beside them: `graphiti` (the graph of facts), `cache` (in memory), `encryption` (of text at rest) and `ids` (names that
do not reveal a user). Only `mongo` knows MongoDB's driver. May import `redis_connection`, `observability`, values and
errors.
"""
