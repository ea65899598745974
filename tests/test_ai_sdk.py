"""`useChat` of the Vercel AI SDK over the service, in a React page in a real browser."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Browser, BrowserContext, Page, expect

from tests.scripted_model import ScriptedModel
from tests.test_browser import PATIENCE_MS, ROOT, browser, model, user  # noqa: F401 - its fixtures
from tests.test_browser_tools import MAIL, Server, results, script_mail, server  # noqa: F401
from twin_sio.dev_tokens import DEV_SECRET, create_token

pytestmark = pytest.mark.xdist_group("sdk")  # one server and one browser are enough

_PACKAGE = ROOT / "clients" / "js"
_SCRIPT = '<script type="module" src="/page.js"></script>'
_HTML = f'<!doctype html><html lang="en"><title>AI SDK</title><body>{_SCRIPT}</body></html>'

Opened = Callable[..., Awaitable[Page]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's script, of the client as it stands."""
    if not (_PACKAGE / "node_modules" / "ai").exists():
        pytest.skip("The SDK is not installed: `make js` does so, and runs this.")
    made = tmp_path_factory.mktemp("ai-sdk") / "page.js"
    subprocess.run(["node", str(_PACKAGE / "tools" / "page.mjs"), str(made)], check=True, timeout=60)
    return made


@pytest.fixture
async def opened(bundle: Path, server: Server, browser: Browser) -> AsyncIterator[Opened]:  # noqa: F811
    """Opens the page as a device of a user, or as one more tab `beside` another page. No page may have failed."""

    async def html(_: web.Request) -> web.Response:
        return web.Response(text=_HTML, content_type="text/html")

    async def script(_: web.Request) -> web.FileResponse:
        return web.FileResponse(bundle)

    app = web.Application()
    app.router.add_get("/", html)
    app.router.add_get("/page.js", script)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", server.host_app_port).start()
    contexts: list[BrowserContext] = []
    errors: list[str] = []

    async def open_page(name: str, *, beside: Page | None = None) -> Page:
        context = beside.context if beside else await browser.new_context()
        contexts.append(context)
        page = await context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        token = create_token(name, DEV_SECRET)
        await page.goto(f"http://127.0.0.1:{server.host_app_port}/#url={server.url}&token={token}")
        await expect(page.locator("main")).to_have_attribute("data-status", "ready", timeout=PATIENCE_MS)
        return page

    yield open_page
    for context in contexts:
        await context.close()
    await runner.cleanup()
    assert errors == []


async def say(page: Page, text: str, button: str = "Send") -> None:
    await page.get_by_label("Message").fill(text)
    await page.get_by_role("button", name=button, exact=True).click()


async def shown(page: Page) -> list[list[str]]:
    found: list[list[str]] = await page.locator("li").evaluate_all(
        "list => list.map(one => [one.dataset.role, one.dataset.state, one.textContent])"
    )
    return found


async def settled(page: Page, answers: int) -> None:
    await expect(page.locator("li[data-role=assistant]:not([data-state=streaming])")).to_have_count(
        answers, timeout=PATIENCE_MS
    )
    await expect(page.locator("main")).to_have_attribute("data-status", "ready", timeout=PATIENCE_MS)


def streaming(page: Page) -> Any:
    return page.locator("main[data-status=streaming] li[data-state=streaming] .text")


async def test_what_is_said_is_answered_in_a_stream(opened: Opened, user: str, model: ScriptedModel) -> None:  # noqa: F811
    page = await opened(user)
    model.script(contains=f"stream for {user}", tokens=("One ", "two ", "three."), hold_after=2)
    await say(page, f"stream for {user}")
    await expect(streaming(page)).to_have_text("One two ", timeout=PATIENCE_MS)
    model.release(f"stream for {user}")
    await settled(page, 1)
    assert await shown(page) == [["user", "stored", f"stream for {user}"], ["assistant", "complete", "One two three."]]


async def test_stop_ends_the_answer_for_all(opened: Opened, user: str, model: ScriptedModel) -> None:  # noqa: F811
    page = await opened(user)
    other = await opened(user)
    model.script(contains="without end", count=2000, token_delay_s=0.03)
    await say(page, "Talk without end")
    for device in (page, other):
        await expect(streaming(device)).to_be_visible(timeout=PATIENCE_MS)
    await other.get_by_role("button", name="Stop").click()
    for device in (page, other):
        await expect(device.locator("li[data-state=stopped]")).to_be_visible(timeout=PATIENCE_MS)
        await settled(device, 1)
    assert await shown(page) == await shown(other)


async def test_an_answer_is_made_anew(opened: Opened, user: str) -> None:  # noqa: F811
    page = await opened(user)
    await say(page, "Choose a word")
    await settled(page, 1)
    first = await page.locator("li[data-role=assistant]").get_attribute("data-id")
    await page.get_by_role("button", name="Again").click()
    await expect(page.locator("li[data-role=assistant]")).not_to_have_attribute(
        "data-id", str(first), timeout=PATIENCE_MS
    )
    await settled(page, 1)
    assert [role for role, *_ in await shown(page)] == ["user", "assistant"]


async def test_a_reload_in_mid_answer_goes_on_with_it(opened: Opened, user: str, model: ScriptedModel) -> None:  # noqa: F811
    page = await opened(user)
    model.script(contains=f"reload for {user}", tokens=("First ", "half, ", "second half."), hold_after=2)
    await say(page, f"reload for {user}")
    await expect(streaming(page)).to_have_text("First half, ", timeout=PATIENCE_MS)
    await page.reload()
    await expect(streaming(page)).to_have_text("First half, ", timeout=PATIENCE_MS)
    model.release(f"reload for {user}")
    await settled(page, 1)
    assert [text for *_, text in await shown(page)] == [f"reload for {user}", "First half, second half."]


async def test_two_tabs_converge(opened: Opened, user: str) -> None:  # noqa: F811
    """What one says and is answered shows in the other, and both are the log after a reload."""
    page = await opened(user)
    other = await opened(user, beside=page)
    await say(page, "From the first")
    for tab in (page, other):
        await settled(tab, 1)
    await say(other, "From the second")
    for tab in (page, other):
        await settled(tab, 2)
    conversation = await shown(page)
    assert await shown(other) == conversation
    await other.reload()
    await settled(other, 2)
    assert await shown(other) == conversation
    assert [text for role, _, text in conversation if role == "user"] == ["From the first", "From the second"]


async def test_a_failure_has_its_code(opened: Opened, user: str, model: ScriptedModel) -> None:  # noqa: F811
    page = await opened(user)
    model.script(contains=f"with a wrong key {user}", status=401, streams=True)
    await say(page, f"with a wrong key {user}")
    await expect(page.locator("main")).to_have_attribute("data-error", "model_key_refused", timeout=PATIENCE_MS)
    await say(page, "x" * 70_000)
    await expect(page.locator("main")).to_have_attribute("data-error", "too_large", timeout=PATIENCE_MS)


def tool(page: Page, state: str) -> Any:
    return page.locator(f".tool[data-state={state}]")


async def test_a_call_is_allowed_in_the_chat(opened: Opened, user: str, model: ScriptedModel) -> None:  # noqa: F811
    """The answer goes on in the same message; another tab that only looks sees all of it."""
    page = await opened(user)
    other = await opened(user, beside=page)
    said = f"mail {user}"
    script_mail(model, said)
    await say(page, said)
    for tab in (page, other):
        await expect(tool(tab, "approval-requested")).to_contain_text("Send the mail", timeout=PATIENCE_MS)
        await expect(tool(tab, "approval-requested")).to_contain_text(str(MAIL["to"]))
        await expect(tab.locator("main")).to_have_attribute("data-status", "ready")
    await page.get_by_role("button", name="Allow").click()
    for tab in (page, other):
        await expect(tool(tab, "output-available")).to_be_visible(timeout=PATIENCE_MS)
        await settled(tab, 1)
        await expect(tab.locator("li[data-role=assistant]")).to_contain_text("That is done.")
        assert [role for role, *_ in await shown(tab)] == ["user", "assistant"]
    assert results(model, said) == ["Sent to bob@example.com: See you at eight (2, False, ['dinner'])"]
    conversation = await shown(page)
    await page.reload()
    await settled(page, 1)
    assert await shown(page) == conversation == await shown(other)


async def test_a_call_is_refused_after_a_reload(opened: Opened, user: str, model: ScriptedModel) -> None:  # noqa: F811
    page = await opened(user)
    said = f"mail {user}"
    script_mail(model, said)
    await say(page, said)
    await expect(tool(page, "approval-requested")).to_be_visible(timeout=PATIENCE_MS)
    await page.reload()
    await expect(tool(page, "approval-requested")).to_be_visible(timeout=PATIENCE_MS)
    await page.get_by_role("button", name="Refuse").click()
    await settled(page, 1)
    await expect(page.locator("li[data-role=assistant]")).to_contain_text("That is done.", timeout=PATIENCE_MS)
    assert "Sent to" not in results(model, said)[0]


async def test_steps_and_thoughts_are_parts(opened: Opened, user: str, model: ScriptedModel) -> None:  # noqa: F811
    page = await opened(user)
    said = f"fly {user}"
    call = {"name": "find_flights", "arguments": {"city": "Oslo"}}
    model.script(contains=said, streams=True, answered=0, reasoning=("Where to?",), calls=[call])
    model.script(contains=said, streams=True, answered=1, tokens=("Take ", "the first."), hold_after=1)
    await say(page, said)
    await expect(tool(page, "output-available")).to_contain_text("Find flights", timeout=PATIENCE_MS)
    await expect(page.locator("main")).to_have_attribute("data-status", "streaming")
    model.release(said)
    await settled(page, 1)
    await expect(page.locator("i")).to_have_text("Where to?")
    await expect(page.locator(".text").last).to_have_text("Take the first.")


async def test_a_message_interrupts_an_answer(opened: Opened, user: str, model: ScriptedModel) -> None:  # noqa: F811
    page = await opened(user)
    model.script(contains=f"without end {user}", count=2000, token_delay_s=0.03)
    await say(page, f"without end {user}")
    await expect(streaming(page)).to_be_visible(timeout=PATIENCE_MS)
    await say(page, "This instead", button="Interrupt")
    await expect(page.locator("li[data-state=stopped]")).to_be_visible(timeout=PATIENCE_MS)
    await settled(page, 2)
    await expect(page.locator("li[data-role=assistant]").last).to_contain_text("This instead")
