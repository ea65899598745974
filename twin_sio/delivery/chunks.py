"""The chunks of a running answer: their frames, and the keys and scripts by which Redis keeps them for joiners."""

from __future__ import annotations

import orjson

from twin_sio.clock import monotonic
from twin_sio.delivery.messages import user_channel
from twin_sio.domain import Generation
from twin_sio.transport.frames import EncodedFrame

_CHUNK = b"twin_message_chunk"
GENERATION_TTL_S = 600
"""Redis keeps a running answer for so long, whatever happens to the instance that generates it."""


class ChunkTemplate:
    """What all chunks of a generation have in common, as JSON: chunks are most of what is sent, and only their text,
    index and time differ."""

    __slots__ = ("_after", "_between", "generation_id", "meta")

    def __init__(self, generation: Generation) -> None:
        self.generation_id = generation.generation_id.encode()
        self.meta = _meta(generation)  # as it is published with each chunk
        # The parts of the frame's JSON between the text and the index, and after the message id.
        self._between = b',"generation_id":%s,"chunk_index":' % orjson.dumps(generation.generation_id)
        metadata = {"session_id": generation.session_id} if generation.session_id is not None else {}
        metadata["in_response_to"] = generation.in_response_to
        metadata["conversation_id"] = generation.conversation_id
        self._after = b'",' + orjson.dumps(metadata)[1:] + b"}]"

    def frame(
        self, text: str, index: int, first: int | None, is_last: bool, stamp: bytes, message_id: bytes
    ) -> EncodedFrame:
        """The frame of one chunk; of several merged into one, where `first` is the index of the first of them."""
        merged = b',"first_chunk_index":%d' % first if first is not None and first != index else b""
        ends = b"true" if is_last else b"false"
        return EncodedFrame(
            b'2["%s",{"type":"%s","payload":{"text":%s%s%d%s,"is_last_chunk":%s},'
            b'"metadata":{"timestamp":"%s","message_id":"%s%s'
            % (_CHUNK, _CHUNK, orjson.dumps(text), self._between, index, merged, ends, stamp, message_id, self._after)
        )


def _meta(generation: Generation) -> str:
    return orjson.dumps([generation.conversation_id, generation.in_response_to, generation.session_id]).decode()


def generation_of(generation_id: str, meta: str) -> Generation:
    """The generation that another instance describes by `ChunkTemplate.meta`."""
    conversation_id, in_response_to, session_id = orjson.loads(meta)
    return Generation(generation_id, conversation_id, in_response_to, session_id, monotonic())


# -- in Redis --------------------------------------------------------------------------------------------------------
# A hash for each user, by the message that is answered: the generation's id and meta. A list for each generation: the
# texts of its chunks. Each key gets its expiry in the script that makes it, and goes with its answer. The hash tag is
# the user's channel: in a cluster an answer is kept on the node that it is published on, in one order.


def generations_key(user_id: str) -> str:
    """The hash of the user's running generations."""
    return f"twin:gens:{{{user_channel(user_id)}}}"


def chunks_key(user_id: str, generation_id: str) -> str:
    """The list of the generation's texts."""
    return f"twin:gen:{{{user_channel(user_id)}}}:{generation_id}"


def hash_value(generation: Generation) -> bytes:
    """A value of the hash of running generations."""
    return orjson.dumps([generation.generation_id, _meta(generation)])


def generation_in(value: str) -> Generation:
    """The generation of a `hash_value`."""
    generation_id, meta = orjson.loads(value)
    return generation_of(generation_id, meta)


# KEYS: the hash. ARGV: the message answered, the value, the generation's id, the prefix of lists, the expiry. A later
# attempt at the same answer takes an earlier one's place.
ANNOUNCE = """
local old = redis.call('HGET', KEYS[1], ARGV[1])
if old then
    local name = cjson.decode(old)[1]
    if name ~= ARGV[3] then redis.call('DEL', ARGV[4] .. name) end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[5])
"""
# KEYS: the hash. ARGV: the message answered, the prefix of lists.
END = """
local old = redis.call('HGET', KEYS[1], ARGV[1])
if old then
    redis.call('DEL', ARGV[2] .. cjson.decode(old)[1])
    redis.call('HDEL', KEYS[1], ARGV[1])
end
"""
# KEYS: the hash, the list. ARGV: the message answered, the generation's id. A later attempt's entry stays.
DROP = """
local old = redis.call('HGET', KEYS[1], ARGV[1])
if old and cjson.decode(old)[1] == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end
redis.call('DEL', KEYS[2])
"""
# KEYS: the hash. ARGV: the prefix of lists. In one step: a list whose entry is deleted without it is found by nobody.
ERASE = """
local count = 0
for _, value in ipairs(redis.call('HVALS', KEYS[1])) do
    count = count + redis.call('DEL', ARGV[1] .. cjson.decode(value)[1])
end
return count + redis.call('DEL', KEYS[1])
"""
# KEYS: the hash, the list. ARGV: the message answered, the generation's id, the expiry, the text. Only for one that is
# announced: what an erasure has deleted must not begin again.
FIRST_CHUNK = """
local now = redis.call('HGET', KEYS[1], ARGV[1])
if now and cjson.decode(now)[1] == ARGV[2] then
    redis.call('RPUSH', KEYS[2], ARGV[4])
    redis.call('EXPIRE', KEYS[2], ARGV[3])
end
"""
