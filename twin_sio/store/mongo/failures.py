"""What is wrong with MongoDB, in one true sentence with what to do; never the address, and nothing that it said."""

from __future__ import annotations

from pymongo.errors import OperationFailure, PyMongoError

from twin_sio.errors import EngineFailure, causes

SENTENCES = {
    "wrong_password": (
        "MongoDB refuses the user or the password of TWIN_MONGODB_URL; a user of another database needs "
        "?authSource=, as ?authSource=admin."
    ),
    "no_rights": (
        "The user of TWIN_MONGODB_URL has no rights on the database that is used: name one where it has the role "
        "readWrite in TWIN_MONGODB_DATABASE, or at the end of TWIN_MONGODB_URL."
    ),
    "no_login": (
        "MongoDB asks for a user and a password: put them into TWIN_MONGODB_URL, as mongodb://user:password@host/."
    ),
    "not_a_replica_set": (
        "The MongoDB at TWIN_MONGODB_URL is no replica set, or one of another name than ?replicaSet= says: start "
        "mongod with --replSet and run rs.initiate() once."
    ),
    "no_primary": (
        "The replica set at TWIN_MONGODB_URL has no primary that can be reached: look at rs.status(), and "
        "whether the names of its members are known here."
    ),
    "certificate": "The certificate of MongoDB is refused: add tlsCAFile= to TWIN_MONGODB_URL.",
    "tls": (
        "TWIN_MONGODB_URL and MongoDB do not agree on TLS: tls=true where it speaks TLS alone, none where it does not."
    ),
    "unknown_host": "A host of TWIN_MONGODB_URL has no address: look at its name.",
    "refused": (
        "Nobody listens at TWIN_MONGODB_URL: MongoDB cannot be reached; start it there, or set the right address."
    ),
    "unreachable": "MongoDB cannot be reached in time: see TWIN_MONGODB_URL.",
    "full": "MongoDB is out of disk and takes no writes.",
    "refuses": "MongoDB refuses what it is asked; its code is {code}.",
    "sealed": "What is stored is encrypted with another key: TWIN_ENCRYPTION_KEYS must hold that one, too.",
}
_BY_CODE = {
    18: "wrong_password",
    8000: "wrong_password",
    13: "no_rights",
    20: "not_a_replica_set",
    263: "not_a_replica_set",
    14031: "full",
}
_SIGNS = (
    ("DNS", "unknown_host"),
    ("CERTIFICATE_VERIFY_FAILED", "certificate"),
    ("SSL", "tls"),
    ("connection closed", "tls"),
    ("Errno -2", "unknown_host"),
    ("Errno -3", "unknown_host"),
    ("Errno -5", "unknown_host"),
    ("nodename nor servname", "unknown_host"),
    ("refused", "refused"),
)


def explain(error: BaseException) -> EngineFailure:
    """What a `StorageUnavailable`, or an error of the driver, says."""
    found = next((one for one in causes(error) if isinstance(one, PyMongoError)), None)
    if found is None:
        return _failure("sealed" if error.__cause__ is None else "unreachable")
    if isinstance(found, OperationFailure):
        kind = _BY_CODE.get(found.code or 0, "refuses")
        if kind == "no_rights" and "requires authentication" in str(found):
            kind = "no_login"
        return _failure(kind, found.code)
    return _failure(_of_selection(found))


def _of_selection(error: PyMongoError) -> str:
    """Why there was no server to ask: what each one said is in the description of the topology."""
    describe = getattr(getattr(error, "details", None), "server_descriptions", None)
    texts = [str(error)]
    if callable(describe):
        servers = list(describe().values())
        texts += [str(one.error) for one in servers if one.error]
        if any(one.server_type_name in ("RSGhost", "Standalone") for one in servers):
            return "not_a_replica_set"
        if any(one.server_type_name.startswith("RS") for one in servers):
            return "no_primary"
    said = " ".join(texts)
    if kind := next((kind for sign, kind in _SIGNS if sign in said), ""):
        return kind
    return "not_a_replica_set" if "No replica set members" in said else "unreachable"


def _failure(kind: str, code: int | None = None) -> EngineFailure:
    return EngineFailure(kind, SENTENCES[kind].format(code=code))
