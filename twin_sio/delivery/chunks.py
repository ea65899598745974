"""The chunks of a running answer: how one is written, and what Redis keeps of it for those who join."""

from __future__ import annotations

import orjson

from twin_sio.clock import monotonic
from twin_sio.domain import Generation
from twin_sio.transport.frames import EncodedFrame

_CHUNK = b"twin_message_chunk"
_GENERATION_TTL_S = 600


class ChunkTemplate:
    """What all chunks of a generation have in common, as JSON: chunks are most of what is sent, and only their text,
    number and time differ."""

    __slots__ = ("_after", "_between", "generation_id", "meta")

    def __init__(self, generation: Generation) -> None:
        self.generation_id = generation.generation_id.encode()
        self.meta = _meta(generation)
        self._between = b',"generation_id":%s,"chunk_index":' % orjson.dumps(generation.generation_id)
        metadata = {"session_id": generation.session_id} if generation.session_id is not None else {}
        metadata["in_response_to"] = generation.in_response_to
        metadata["conversation_id"] = generation.conversation_id
        self._after = b'",' + orjson.dumps(metadata)[1:] + b"}]"

    def frame(
        self, text: str, index: int, first: int | None, is_last: bool, stamp: bytes, message_id: bytes
    ) -> EncodedFrame:
        merged = b',"first_chunk_index":%d' % first if first is not None and first != index else b""
        ends = b"true" if is_last else b"false"
        return EncodedFrame(
            b'2["%s",{"type":"%s","payload":{"text":%s%s%d%s,"is_last_chunk":%s},'
            b'"metadata":{"timestamp":"%s","message_id":"%s%s'
            % (_CHUNK, _CHUNK, orjson.dumps(text), self._between, index, merged, ends, stamp, message_id, self._after)
        )


def _meta(generation: Generation) -> str:
    return orjson.dumps([generation.conversation_id, generation.in_response_to, generation.session_id]).decode()


def _running(generation: Generation) -> bytes:
    return orjson.dumps([generation.generation_id, _meta(generation)])


def _generation(generation_id: str, meta: str) -> Generation:
    conversation_id, in_response_to, session_id = orjson.loads(meta)
    return Generation(generation_id, conversation_id, in_response_to, session_id, monotonic())


# What Redis keeps of a running answer has an end from the moment it is there, and goes with its answer. The keys of
# texts are in the slot of the hash that names them.

_ANNOUNCED = """
local old = redis.call('HGET', KEYS[1], ARGV[1])
if old then
    local name = cjson.decode(old)[1]
    if name ~= ARGV[3] then redis.call('DEL', ARGV[4] .. name) end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[5])
"""
_ENDED = """
local old = redis.call('HGET', KEYS[1], ARGV[1])
if old then
    redis.call('DEL', ARGV[2] .. cjson.decode(old)[1])
    redis.call('HDEL', KEYS[1], ARGV[1])
end
"""
_DROPPED = """
local old = redis.call('HGET', KEYS[1], ARGV[1])
if old and cjson.decode(old)[1] == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end
redis.call('DEL', KEYS[2])
"""
_FIRST = """
redis.call('RPUSH', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[1])
"""

# The hash tag is the user's channel: in a cluster what is kept of an answer lies where it is said, in one order.


def _generations_key(user_id: str) -> str:
    return f"twin:gens:{{twin:user:{user_id}}}"


def _chunks_key(user_id: str, generation_id: str) -> str:
    return f"twin:gen:{{twin:user:{user_id}}}:{generation_id}"
