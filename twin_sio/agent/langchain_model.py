"""Chat models of LangChain for the twin, and the service's endpoint as a chat model of LangChain."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import structlog
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, convert_to_messages
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.messages.utils import convert_to_openai_messages
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field

from twin_sio.agent.model import Finished, RequestedCall, Thought
from twin_sio.agent.model.answer import thought_of
from twin_sio.agent.prompts import PromptMessage
from twin_sio.domain import Json
from twin_sio.errors import ModelNoAnswer, ModelUnavailable, ServiceError

log = structlog.get_logger("model")


class LangChainModel:
    """Any chat model of LangChain as the twin's."""

    def __init__(self, model: BaseChatModel) -> None:
        self._model = model
        named = getattr(model, "model_name", None) or getattr(model, "model", None)
        self.name = named if isinstance(named, str) else type(model).__name__

    async def stream(
        self, messages: Sequence[PromptMessage], tools: Sequence[Json] = ()
    ) -> AsyncGenerator[str | Thought | Finished, None]:
        """See `OpenAIModel.stream`. Whatever the model raises is `ModelUnavailable`, logged by its kind."""
        asked = convert_to_messages([dict(message) for message in messages])
        model: Any = self._model.bind_tools([dict(tool) for tool in tools]) if tools else self._model
        whole: AIMessageChunk | None = None
        try:
            async with aclosing(model.astream(asked)) as chunks:
                async for chunk in chunks:
                    whole = chunk if whole is None else whole + chunk
                    if thought := thought_of(chunk.additional_kwargs):
                        yield Thought(thought)
                    if text := text_of(chunk):
                        yield text
        except ServiceError:
            raise
        except Exception as error:
            log.warning("model_failed", error=type(error).__name__, model=self.name)
            raise ModelUnavailable from None
        calls = (
            tuple(RequestedCall(call["name"], json.dumps(call["args"])) for call in whole.tool_calls) if whole else ()
        )
        if whole is None or not (text_of(whole) or calls):
            raise ModelNoAnswer
        yield Finished("stop", _usage(whole), calls)


def text_of(message: BaseMessage) -> str:
    """The text of a message, whichever of its forms it has."""
    content = message.content
    if isinstance(content, str):
        return content
    return "".join(
        part if isinstance(part, str) else str(part.get("text") or "")
        for part in content
        if isinstance(part, str) or part.get("type") in ("text", "text_delta")
    )


def _usage(message: AIMessageChunk) -> Json | None:
    used = message.usage_metadata
    if used is None:
        return None
    read, written = used["input_tokens"], used["output_tokens"]
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


class EndpointChatModel(BaseChatModel):
    """The service's own model as a chat model of LangChain: for graphs that want one."""

    endpoint: Any = Field(exclude=True)

    @property
    def _llm_type(self) -> str:
        return "twin_sio"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,  # noqa: ARG002 - LangChain's signature
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002 - LangChain's signature
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        asked = convert_to_openai_messages(messages)
        async with aclosing(self.endpoint.stream(asked, kwargs.get("tools", ()))) as pieces:
            async for piece in pieces:
                chunk = ChatGenerationChunk(message=_chunk(piece))
                if run_manager is not None and isinstance(piece, str):
                    await run_manager.on_llm_new_token(piece, chunk=chunk)
                yield chunk

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        whole: ChatGenerationChunk | None = None
        async for chunk in self._astream(messages, stop, run_manager, **kwargs):
            whole = chunk if whole is None else whole + chunk
        if whole is None:
            raise ModelNoAnswer
        message = whole.message
        tool_calls = message.tool_calls if isinstance(message, AIMessageChunk) else []
        return ChatResult(
            generations=[ChatGeneration(message=AIMessage(content=message.content, tool_calls=tool_calls))]
        )

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        raise NotImplementedError("The service's model is asynchronous: use ainvoke or astream.")


def _chunk(piece: str | Thought | Finished) -> AIMessageChunk:
    match piece:
        case str(text):
            return AIMessageChunk(content=text)
        case Thought(text):
            return AIMessageChunk(content="", additional_kwargs={"reasoning_content": text})
        case Finished(_, usage, calls):
            chunks = [
                tool_call_chunk(name=call.name, args=call.arguments, id=f"call{nth:05}", index=nth)
                for nth, call in enumerate(calls)
            ]
            read, written = ((usage or {}).get(name) for name in ("prompt_tokens", "completion_tokens"))
            used: Any = None
            if isinstance(read, int) and isinstance(written, int):
                used = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
            return AIMessageChunk(content="", tool_call_chunks=chunks, usage_metadata=used)
