"""What one writes and reads on the page and in the widget, in all scripts, on phones, without a secure context."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from playwright.async_api import Browser, Page, WebSocketRoute, expect

from tests.balancers import Nginx
from tests.scripted_model import ScriptedModel
from tests.test_browser import (  # noqa: F401 - its fixtures
    PATIENCE_MS,
    Opened,
    Server,
    accessible,
    answered,
    browser,
    learnt,
    model,
    opened,
    say,
    server,
    shown,
    user,
)
from twin_sio.dev_tokens import DEV_SECRET, create_token
from twin_sio.runtime.dev_engines.engines import MODEL_NAME

pytestmark = pytest.mark.xdist_group("writing")  # one server and one browser are enough

PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 760}, "is_mobile": True, "has_touch": True}


async def answer(page: Page, model: ScriptedModel, text: str, said: str) -> None:  # noqa: F811
    """Have the twin say `text` when it is asked `said`."""
    count = await page.locator("[data-role=twin]").count()
    model.script(contains=said, streams=True, tokens=(text,))
    await say(page, said)
    await answered(page, count + 1)


async def fits(page: Page) -> bool:
    """Whether nothing makes the page wider than its window."""
    return bool(await page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


async def test_a_draft_survives_other_conversations_edits_and_a_reload(opened: Opened, user: str) -> None:  # noqa: F811
    page = await opened(user)
    await say(page, "An old thing")
    await answered(page, 1)
    field = page.locator("#text")
    await field.fill("half a thought")
    await page.get_by_role("button", name="Edit").click()
    await expect(field).to_have_value("An old thing")
    await field.fill("An old thing, better")
    await page.reload()
    await expect(field).to_have_value("An old thing, better")
    await expect(page.locator(".editing")).to_be_visible()
    await field.press("Enter")
    await expect(field).to_have_value("half a thought")
    await answered(page, 2)
    await page.get_by_role("button", name="Edit").last.click()
    await field.press("Escape")
    await expect(field).to_have_value("half a thought")
    await page.locator("#new").click()
    await expect(field).to_have_value("")
    await field.fill("of another")
    await page.locator(".conversation-line:not([aria-current])").click()
    await expect(field).to_have_value("half a thought")
    await page.reload()
    await expect(field).to_have_value("half a thought")
    await field.fill("")
    await page.reload()
    await answered(page, 2)
    await expect(field).to_have_value("")


async def test_a_draft_is_its_users_alone(opened: Opened, user: str) -> None:  # noqa: F811
    page = await opened(user)
    await page.locator("#text").fill("for nobody else")
    token = create_token(f"{user}-other", DEV_SECRET)
    await page.goto(page.url + f"#token={token}")
    await page.locator("#switch").click()
    await expect(page.locator("#connection")).to_have_text(f"Connected as {user}-other", timeout=PATIENCE_MS)
    await expect(page.locator("#text")).to_have_value("")


async def test_what_is_too_long_is_said_and_not_cut(opened: Opened, user: str) -> None:  # noqa: F811
    page = await opened(user)
    field = page.locator("#text")
    long = "\U0001f600" + "é" * 9_002  # an emoji is one character
    await field.evaluate("(it, text) => { it.focus(); document.execCommand('insertText', false, text); }", long)
    await expect(field).to_have_value(long)
    await expect(page.locator("#limit")).to_contain_text("1,003 characters too long")
    await expect(page.locator("#send")).to_be_disabled()
    await field.press("Enter")
    await expect(page.locator(".message")).to_have_count(0)
    await accessible(page)
    await field.fill(long[:8_000])
    await expect(page.locator("#limit")).to_be_hidden()
    await field.press("Enter")
    await answered(page, 1)
    assert len((await shown(page))[0]["text"]) == 8_000
    await page.locator("[data-rating=down]").click()
    await page.locator("[name=comment]").fill("x" * 2_001)
    await page.get_by_role("button", name="Tell it").click()
    await expect(page.locator(".toast")).to_contain_text("too long")
    await expect(page.locator("[name=comment]")).to_have_value("x" * 2_001)


async def test_one_character_too_many_is_said_under_the_field(opened: Opened, user: str) -> None:  # noqa: F811
    page = await opened(user, viewport={"width": 900, "height": 700})
    await page.locator("#text").fill("x" * 8_001)
    limit = page.locator("#limit")
    await expect(limit).to_contain_text("1 character too long")
    place = "node => node.getBoundingClientRect().left + parseFloat(getComputedStyle(node).paddingLeft)"
    field = await page.locator("#text").evaluate("node => node.getBoundingClientRect().left")
    assert await limit.evaluate(place) == field


async def test_a_long_word_in_what_is_told_stays_in_the_window(
    opened: Opened,  # noqa: F811
    user: str,  # noqa: F811
    model: ScriptedModel,  # noqa: F811
) -> None:
    page = await opened(user, viewport={"width": 360, "height": 640})
    await learnt(page, model, "I live in " + "X" * 80, "location.city", "X" * 80)
    box = await page.locator(".toast").bounding_box()
    assert box is not None
    assert 0 <= box["x"] <= box["x"] + box["width"] <= 360
    assert await fits(page)


async def test_an_input_methods_enter_sends_nothing(opened: Opened, user: str) -> None:  # noqa: F811
    """Also Safari's, which says so by the code 229 alone."""
    page = await opened(user)
    await page.locator("#text").fill("にほ")
    for how in ("{ keyCode: 229 }", "{ isComposing: true }"):
        await page.locator("#text").evaluate(
            f"it => it.dispatchEvent(new KeyboardEvent('keydown', {{ key: 'Enter', cancelable: true, ...{how} }}))"
        )
    await expect(page.locator("#text")).to_have_value("にほ")
    await page.locator("#text").press("Enter")
    await answered(page, 1)


async def test_a_phone_writes_lines_and_is_not_zoomed(opened: Opened, user: str) -> None:  # noqa: F811
    page = await opened(user, **PHONE)
    assert await page.evaluate("document.activeElement.tagName") == "BODY"
    await page.locator("#text").tap()
    await page.keyboard.type("one")
    await page.keyboard.press("Enter")
    await page.keyboard.type("two")
    await expect(page.locator(".message")).to_have_count(0)
    await page.locator("#send").tap()
    await answered(page, 1)
    assert (await shown(page))[0]["text"] == "one\ntwo"
    await page.locator("[data-rating=down]").tap()
    await page.locator("#menu").tap()
    small = "list => list.map(it => parseFloat(getComputedStyle(it).fontSize)).filter(size => size < 16)"
    assert await page.locator("input:not([type=checkbox]), textarea, select").evaluate_all(small) == []
    assert await fits(page)


async def test_a_failed_answer_says_why_and_is_tried_again(
    opened: Opened,  # noqa: F811
    user: str,  # noqa: F811
    model: ScriptedModel,  # noqa: F811
) -> None:
    page = await opened(user)
    model.script(contains="Fail me", streams=True, status=503, times=3)
    await say(page, "Fail me")
    failed = page.locator("[data-role=twin][data-state=failed]")
    await expect(failed.locator(".failure")).to_contain_text("could not answer", timeout=PATIENCE_MS)
    await expect(failed.locator(".rate").first).to_be_hidden()
    await accessible(page)
    await page.reload()
    await expect(failed.locator(".failure")).to_be_visible(timeout=PATIENCE_MS)
    await failed.get_by_role("button", name="Try again").click()
    await answered(page, 1)
    await expect(page.locator("[data-role=twin] .failure")).to_be_hidden()


async def test_other_days_are_told_apart(opened: Opened, user: str) -> None:  # noqa: F811
    page = await opened(user, locale="en-GB")
    await say(page, "Before")
    await answered(page, 1)
    assert str(datetime.now(tz=UTC).year) in (await page.locator("time").first.get_attribute("title") or "")
    await expect(page.locator(".day")).to_have_count(0)
    for days, name in ((1, "Yesterday"), (3, datetime.now().astimezone().strftime("%A"))):
        later = datetime.now(tz=UTC) + timedelta(days=days)
        await page.clock.set_fixed_time(later)
        await page.reload()
        await answered(page, 1)
        await expect(page.locator(".day")).to_have_count(1)
        await expect(page.locator(".day")).to_contain_text(name)
    await accessible(page)


NO_CLIPBOARD = "Object.defineProperty(navigator, 'clipboard', { value: undefined })"


async def test_copying_works_without_a_secure_context(
    opened: Opened,  # noqa: F811
    user: str,  # noqa: F811
    model: ScriptedModel,  # noqa: F811
) -> None:
    """The answer, or one block of code of it; where the browser forbids it, that is said."""
    page = await opened(user)
    await page.context.add_init_script(NO_CLIPBOARD)
    await page.reload()
    await answer(page, model, "Do *this*:\n\n```py\nx = 1\n```\n\nand\n\n```\ny = 2\n```\n", "copy me")
    for button, copied in (
        (page.locator(".foot .copy"), "Do *this*:\n\n```py\nx = 1\n```\n\nand\n\n```\ny = 2\n```\n"),
        (page.locator(".copy-code").last, "y = 2"),
    ):
        await button.click()
        await expect(page.locator(".toast").last).to_have_text("Copied.")
        await page.locator("#text").fill("")
        await page.locator("#text").press("Control+v")
        await expect(page.locator("#text")).to_have_value(copied)
    await page.evaluate("document.execCommand = () => false")
    await page.locator(".foot .copy").click()
    await expect(page.locator(".toast").last).to_contain_text("by hand")


TABLE = """| Posten | Menge | Preis in Euro | Bemerkung |
|---|--:|--:|---|
| Kokosmilch | 12,40 | 1.234.567,89 | Donaudampfschifffahrtsgesellschaft |
| Currypaste, rot | 1 000 g | -0,5 % | eine längere Bemerkung, die in mehreren Zeilen stehen darf, wenn es sein muss |
"""
ROWS = "list => list.map(it => it.getClientRects().length && it.offsetHeight)"


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
async def test_a_table_scrolls_and_keeps_its_numbers_whole(
    opened: Opened,  # noqa: F811
    user: str,  # noqa: F811
    model: ScriptedModel,  # noqa: F811
    width: int,
) -> None:
    page = await opened(user, viewport={"width": width, "height": 760})
    await answer(page, model, TABLE, "a table")
    one_line = await page.locator("th").first.evaluate("it => it.offsetHeight")
    for cell in ("12,40", "1.234.567,89", "1 000 g", "-0,5 %", "Kokosmilch"):
        text = page.locator("td", has_text=cell)
        lines = await text.evaluate(
            "it => { const range = document.createRange(); range.selectNodeContents(it); "
            "return new Set([...range.getClientRects()].map(one => one.top)).size; }"
        )
        assert lines == 1, (cell, one_line)
    assert await fits(page)


SCRIPTS = {
    "これは**「重要」**な点です。": "strong:「重要」",
    "**该星号。**这是因为": "strong:该星号。",
    "이것은 **“중요”**입니다.": "strong:“중요”",
    "3~5天，100~200元": "",
    "between 1~2 and 3~4": "",
    "~~gone~~ here": "del:gone",
    "plain **bold** and _soft_": "strong:bold em:soft",
}


async def test_emphasis_is_read_in_every_script(
    opened: Opened,  # noqa: F811
    user: str,  # noqa: F811
    model: ScriptedModel,  # noqa: F811
) -> None:
    page = await opened(user)
    await answer(page, model, "\n\n".join(SCRIPTS), "scripts")
    marked = "list => list.map(p => [...p.children].map(it => `${it.localName}:${it.textContent}`).join(' '))"
    assert await page.locator("[data-role=twin] .text > p").evaluate_all(marked) == list(SCRIPTS.values())


async def test_text_runs_as_its_letters_do(
    opened: Opened,  # noqa: F811
    user: str,  # noqa: F811
    model: ScriptedModel,  # noqa: F811
) -> None:
    """In the field, the messages, each block of an answer and the list; code stays from the left."""
    page = await opened(user)
    await page.locator("#text").fill("שלום")
    direction = "it => getComputedStyle(it).direction"
    assert await page.locator("#text").evaluate(direction) == "rtl"
    text = "مرحبا\n\n- واحد\n- two\n\n> שלום\n\nHello\n\n```\nx = 'مرحبا'\n```\n\n| اسم | 12 |\n|-|-|\n| أ | ب |\n"
    await answer(page, model, text, "مرحبا بالعالم")
    assert await page.locator("[data-role=user] .text").evaluate(direction) == "rtl"
    found = await page.locator("[data-role=twin] .text > *").evaluate_all(
        "list => list.map(it => getComputedStyle(it.querySelector('pre, th') ?? it).direction)"
    )
    assert found == ["rtl", "rtl", "rtl", "ltr", "ltr", "rtl"]
    await expect(page.locator(".conversation-line .title")).to_contain_text("مرحبا", timeout=PATIENCE_MS)
    assert await page.locator(".conversation-line .title").evaluate(direction) == "rtl"


PLACES = {
    "block": "",
    "flex": "display:flex",
    "grid": "display:grid",
    "inline": "display:inline-block",
    "centred": "display:grid;place-items:center",
    "fixed": "position:fixed;inset:auto 0 0 auto",
}


@asynccontextmanager
async def place_of(server: Server, at: str = "") -> AsyncIterator[str]:  # noqa: F811
    """A page of another origin with the widget in an element of the style that the query names."""

    async def page(request: web.Request) -> web.Response:
        style = PLACES[request.query["place"]]
        name = f"/{request.query['token']}" if "token" in request.query else ""
        return web.Response(
            text=f"<!doctype html><html lang=en><title>A place</title><meta name=viewport content='width=device-width'>"
            f"<body style='margin:0'><main style='height:600px;{style}'><div id=twin style='height:600px'></div></main>"
            f"<script src='{at or server.url}/widget.js'></script><script>window.twin = TwinChat.mount("
            f"document.getElementById('twin'), {{ getToken: () => window.token ?? '{name[1:]}' }})</script>",
            content_type="text/html",
        )

    app = web.Application()
    app.router.add_get("/", page)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", server.host_app_port).start()
    try:
        yield f"http://127.0.0.1:{server.host_app_port}/"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("width", [320, 390])
async def test_the_widget_is_never_wider_than_its_place(
    browser: Browser,  # noqa: F811
    server: Server,  # noqa: F811
    user: str,  # noqa: F811
    model: ScriptedModel,  # noqa: F811
    width: int,
) -> None:
    token = create_token(user, DEV_SECRET)
    model.script(contains="a wide one", streams=True, tokens=(f"{TABLE}\n\n```\n{'x' * 300}\n```\n\n{'y' * 300}",))
    async with place_of(server) as url:
        page = await browser.new_page(viewport={"width": width, "height": 640})
        for number, place in enumerate(PLACES):
            await page.goto(f"{url}?place={place}&token={token}")
            if number == 0:
                await say(page, "a wide one")
            await answered(page, 1)
            assert await fits(page), place
            box = await page.locator("#send").bounding_box()
            assert box is not None
            assert 0 <= box["x"] <= box["x"] + box["width"] <= width, place
            assert (await page.locator("#text").bounding_box() or {"width": 0})["width"] > 100, place
        await accessible(page)
        await page.close()


async def test_an_expired_token_asks_to_sign_in(browser: Browser, server: Server, user: str) -> None:  # noqa: F811
    """On the page by its dialog; in the widget with a button that tries it with what the app gives then."""
    expired, good = create_token(user, DEV_SECRET, ttl_s=-600), create_token(user, DEV_SECRET)
    page = await browser.new_page()
    await page.goto(f"{server.url}/#token={expired}")
    await expect(page.locator("#sign-in")).to_contain_text("expired", timeout=PATIENCE_MS)
    await page.goto(f"{server.url}/#token={good}")  # the link of the terminal, put into the same tab
    await expect(page.locator("#connection")).to_have_text(f"Connected as {user}", timeout=PATIENCE_MS)
    await expect(page.locator("#sign-in")).to_be_hidden()
    async with place_of(server) as url:
        await page.goto(f"{url}?place=block&token={expired}")
        await expect(page.locator(".state")).to_have_attribute("data-state", "refused", timeout=PATIENCE_MS)
        await expect(page.locator(".state")).to_contain_text("sign in again")
        await page.evaluate("token => { window.token = token; }", good)
        await page.get_by_role("button", name="Try again").click()
        await expect(page.locator(".state")).to_have_attribute("data-state", "online", timeout=PATIENCE_MS)
        await expect(page.get_by_role("button", name="Try again")).to_be_hidden()
        await page.add_init_script(
            "Object.defineProperty(window, 'token', { get: () => { throw new Error('ours'); } })"
        )
        await page.reload()
        await expect(page.locator(".state")).to_contain_text("could not be renewed", timeout=PATIENCE_MS)
    await page.close()


async def test_an_origin_that_is_not_allowed_is_told(browser: Browser, server: Server, user: str) -> None:  # noqa: F811
    page = await browser.new_page()
    async with place_of(server) as url:
        token = create_token(user, DEV_SECRET)
        await page.goto(f"{url.replace('127.0.0.1', 'localhost')}?place=block&token={token}")
        await expect(page.locator(".state")).to_contain_text("does not allow this page", timeout=PATIENCE_MS)
    await page.close()


async def test_one_button_signs_in_and_one_out(browser: Browser, server: Server) -> None:  # noqa: F811
    page = await browser.new_page()
    await page.goto(server.url)
    await page.get_by_role("button", name="Sign in as ada").click()
    await expect(page.locator("#connection")).to_have_text("Connected as ada", timeout=PATIENCE_MS)
    await page.locator("#sign-out").click()
    await expect(page.locator("#sign-in")).to_contain_text("signed out")
    await accessible(page)
    await page.keyboard.press("Escape")
    await page.locator("#new").click()
    await expect(page.locator("#sign-in")).to_be_visible()
    await page.reload()
    await expect(page.locator("#sign-in")).to_be_visible()
    assert await page.locator(".message").count() == 0
    await page.close()


async def test_a_demo_models_answers_are_called_so(opened: Opened, user: str) -> None:  # noqa: F811
    """As long as it is the one that answers."""
    is_demo = True

    def wire(page_end: WebSocketRoute) -> None:
        server_end = page_end.connect_to_server()
        server_end.on_message(
            lambda frame: page_end.send(
                str(frame).replace('"model":"scripted"', f'"model":"{MODEL_NAME}"') if is_demo else frame
            )
        )

    page = await opened(user, sockets=wire)
    await expect(page.locator("#demo")).to_be_hidden()
    await say(page, "Are you bright?")
    await answered(page, 1)
    await expect(page.locator("#demo")).to_be_visible()
    await accessible(page)
    is_demo = False
    await say(page, "And now?")
    await answered(page, 2)
    await expect(page.locator("#demo")).to_be_hidden()


FOREIGN: list[dict[str, str]] = [
    {"Host": "evil.example:80"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"X-Forwarded-For": "203.0.113.7"},
    {"Forwarded": "for=203.0.113.7"},
]


async def test_a_development_token_is_for_this_machine_alone(server: Server) -> None:  # noqa: F811
    async with aiohttp.ClientSession() as http:
        for headers in FOREIGN:
            async with http.post(f"{server.url}/dev/token", headers=headers) as refused:
                assert refused.status == 403, headers
                assert "token" not in await refused.json()
        async with http.post(f"{server.url}/dev/token", headers={"Origin": server.url}) as given:
            assert (given.status, given.headers["Cache-Control"]) == (200, "no-store")
        async with http.get(f"{server.url}/dev/token") as refused:
            assert refused.status == 405


async def test_the_page_and_the_widget_are_found_below_a_path(
    browser: Browser,  # noqa: F811
    server: Server,  # noqa: F811
    user: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    proxy = Nginx("nginx.conf.template", tmp_path, [server.port] * 3, below="/twin")
    await asyncio.to_thread(proxy.start)
    try:
        page = await browser.new_page()
        home = proxy.url.replace("localhost", "127.0.0.1")
        await page.goto(f"{home}/twin/#token={create_token(user, DEV_SECRET)}")
        await expect(page.locator("#connection")).to_have_text(f"Connected as {user}", timeout=PATIENCE_MS)
        await say(page, "Hello from below")
        await answered(page, 1)
        await page.locator("#open-profile").click()
        await expect(page.locator("#profile")).to_be_visible()
        async with place_of(server, f"{home}/twin") as url:
            await page.goto(f"{url}?place=block&token={create_token(user, DEV_SECRET)}")
            await answered(page, 1)
        await page.close()
    finally:
        await asyncio.to_thread(proxy.stop)
