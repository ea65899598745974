"""The model behind an OpenAI-compatible endpoint, whichever dialect of the API that speaks.

`client` asks. Pure, in the order in which it uses them: `dialect` puts a question in the form that the endpoint takes,
and learns from its refusals; `refusals` reads one, `failures` tells what it is; `events` splits a
stream, `answer` adds it up: what the model thinks (`reasoning`, `harmony`), its `calls` of tools, the text up to its
`end_tokens`; and `objects` finds the JSON object in an answer.
"""

from __future__ import annotations

from twin_sio.agent.model.answer import Finished, Thought
from twin_sio.agent.model.calls import RequestedCall
from twin_sio.agent.model.client import Keep, OpenAIModel, tokens
from twin_sio.agent.model.failures import Failure

__all__ = ["Failure", "Finished", "Keep", "OpenAIModel", "RequestedCall", "Thought", "tokens"]
