"""An MCP server with tools that answer in texts, images and links."""

from __future__ import annotations

from mcp.server.fastmcp import FastMCP, Image
from mcp.types import ResourceLink

server = FastMCP("words")


@server.tool()
def lookup(word: str) -> str:
    """What a word means."""
    return f"meaning of {word}"


@server.tool(structured_output=False)
def draw(word: str) -> list[str | Image | ResourceLink]:
    """Draws a word."""
    link = ResourceLink(type="resource_link", name=word, uri="https://words.test/cat.pdf")  # type: ignore[arg-type]
    return [f"here is a {word}", Image(data=b"\x89PNG", format="png"), link]


if __name__ == "__main__":
    server.run()
