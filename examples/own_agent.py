"""An agent of your own: a LangGraph graph with a tool, over the service's model.

    TWIN_AGENT=examples.own_agent:agent make run          (server and worker read it)

The graph is LangGraph's as it stands; what the user sees of it (pieces, steps, approvals) the service makes of it.
"""

from __future__ import annotations

from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import interrupt

from twin_sio.agent.factory import Agent, AgentServices


@tool
def boil_time(egg_grams: int) -> str:
    """How long an egg of this weight boils until it is soft."""
    return f"{2.5 + egg_grams / 20:.1f} minutes"


@tool
def order_eggs(count: int) -> str:
    """Orders eggs, once the user has allowed it."""
    decision = interrupt({"name": "order_eggs", "args": {"count": count}, "description": f"Order {count} eggs"})
    if decision["decision"] not in ("approve", "edit"):
        return f"Not ordered: {decision.get('comment', 'the user did not want it')}"
    return f"Ordered: {decision.get('arguments', {}).get('count', count)} eggs"


def agent(services: AgentServices) -> Agent:
    """The twin as this graph: the service calls it as it starts."""
    tools = [boil_time, order_eggs]
    model = services.chat_model().bind_tools(tools)

    async def think(state: MessagesState) -> MessagesState:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("think", think)
    graph.add_node("tools", ToolNode(tools))
    graph.add_edge(START, "think")
    graph.add_conditional_edges("think", tools_condition)
    graph.add_edge("tools", "think")
    return services.graph_agent(graph.compile())
