"""The chat page in a real browser, against the service as `make run` starts it, with a scripted model."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Locator, Page, WebSocketRoute, async_playwright, expect

from tests.processes import Process
from tests.scripted_model import ScriptedModel
from tests.waiting import eventually
from twin_sio.client import TwinClient
from twin_sio.clock import monotonic, new_id
from twin_sio.dev_tokens import DEV_SECRET, create_token
from twin_sio.runtime.dev_engines.engines import free_port

pytestmark = pytest.mark.xdist_group("browser")  # one server and one browser are enough

ROOT = Path(__file__).parent.parent
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
PATIENCE_MS = 20_000
MESSAGES = """list => list.map(item => ({
    id: item.dataset.messageId,
    role: item.dataset.role,
    state: item.dataset.state,
    seq: Number(item.dataset.seq),
    text: item.querySelector('.text').textContent,
}))"""


class Server:
    """`python -m server` on a port of its own, with MongoDB and Redis embedded."""

    def __init__(self, folder: Path, model: ScriptedModel, **more: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.host_app_port = free_port()
        env = {
            "TWIN_ENV": "dev",
            "PORT": str(self.port),
            "TWIN_DATA_DIR": str(folder / "data"),
            "TWIN_TEST_TUNING": '{"turn_lease_s": 1}',
            "OPENAI_BASE_URL": model.base_url,
            "OPENAI_API_KEY": "scripted",
            "TWIN_MODEL": "scripted",
            "TWIN_EXTRACTION": "model",
            "TWIN_MONGODB_URL": "",
            "TWIN_REDIS_URL": "",
            "TWIN_CORS_ORIGINS": f"{self.url} http://127.0.0.1:{self.host_app_port}",
            **more,
        }
        self.child = Process("server", folder, env)

    async def start(self) -> None:
        self.child.start()
        async with asyncio.timeout(60), aiohttp.ClientSession() as http:
            while not await self._is_ready(http):
                assert self.child.alive, self.child.printed()
                await asyncio.sleep(0.1)

    async def _is_ready(self, http: aiohttp.ClientSession) -> bool:
        try:
            async with http.get(f"{self.url}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False


@pytest.fixture(scope="module")
async def model() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel(token_delay_s=0.03) as model:
        yield model


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory, model: ScriptedModel) -> AsyncIterator[Server]:
    server = Server(tmp_path_factory.mktemp("browser"), model)
    await server.start()
    try:
        yield server
    finally:
        await asyncio.to_thread(server.child.stop, 40)


def program() -> str:
    """The browser of this machine."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.fail("No browser on PATH: install chromium, or run `make test`, which does.")
    return found


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program(), args=FLAGS)
        yield browser
        await browser.close()


Opened = Callable[..., Awaitable[Page]]


@pytest.fixture
async def opened(server: Server, browser: Browser) -> AsyncIterator[Opened]:
    """Opens the page as a device of a user: `await opened("ada")`, or as one more tab `beside` another page, or `at`
    another address. `sockets` gets the page's WebSockets, `scope` is the token's. No page may have failed."""
    contexts: list[BrowserContext] = []
    errors: list[str] = []

    async def open_page(
        user: str, *, beside: Page | None = None, at: str = "", sockets: Any = None, scope: str = "", **options: Any
    ) -> Page:
        context = beside.context if beside else await browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        page = await context.new_page()
        if sockets is not None:
            await page.route_web_socket("**/socket.io/**", sockets)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if "Content Security" in message.text else None)
        await page.goto(f"{at or server.url + '/'}#token={create_token(user, DEV_SECRET, scope=scope)}")
        await expect(page.locator("#connection, .state[role=status]")).to_have_attribute(
            "data-state", "online", timeout=PATIENCE_MS
        )
        return page

    yield open_page
    for context in contexts:
        await context.close()
    assert errors == []


@pytest.fixture
def user() -> str:
    return f"kim{new_id()}"


async def shown(page: Page) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await page.locator(".message").evaluate_all(MESSAGES)
    return found


async def say(page: Page, text: str) -> None:
    await page.locator("#text").fill(text)
    await page.locator("#text").press("Enter")


async def answered(page: Page, count: int) -> None:
    await expect(page.locator("[data-role=twin][data-state=complete]")).to_have_count(count, timeout=PATIENCE_MS)
    await expect(page.locator("[data-role=twin]")).to_have_count(count)


async def test_two_devices_of_one_user_see_the_same_conversation_live(
    opened: Opened, user: str, model: ScriptedModel
) -> None:
    laptop, phone = await opened(user), await opened(user, viewport={"width": 390, "height": 760})
    await expect(laptop.locator("#devices li")).to_have_count(2, timeout=PATIENCE_MS)
    model.script(contains="We cook", token_delay_s=0.25)  # slow enough to be looked at on both
    await say(laptop, "We cook for my sister tonight.")
    for device in (laptop, phone):
        streaming = device.locator("[data-role=twin][data-state=streaming] .text")
        await expect(streaming).to_contain_text("You said: We cook", timeout=PATIENCE_MS)
    for device in (laptop, phone):
        await answered(device, 1)
    await say(phone, "And what do we drink?")
    for device in (laptop, phone):
        await answered(device, 2)
    conversation = await shown(laptop)
    assert await shown(phone) == conversation
    assert [message["text"] for message in conversation] == [
        "We cook for my sister tonight.",
        model.answer_to("We cook for my sister tonight."),
        "And what do we drink?",
        model.answer_to("And what do we drink?"),
    ]
    assert [message["seq"] for message in conversation] == sorted(message["seq"] for message in conversation)


_SLOW_AT_FIRST = """
const request = navigator.locks.request.bind(navigator.locks);
navigator.locks.request = async (...asked) => {
    if (window.opener === null) await new Promise((resolve) => setTimeout(resolve, 700));
    return await request(...asked);
};
"""


@pytest.mark.parametrize("script", ["", _SLOW_AT_FIRST], ids=["", "in a slow browser"])
async def test_a_reload_keeps_the_conversation_and_the_session(opened: Opened, user: str, script: str) -> None:
    page = await opened(user)
    await page.context.add_init_script(script)
    await say(page, "Remember this.")
    await answered(page, 1)
    before = await shown(page)
    session = await page.evaluate("sessionStorage.getItem('twin-sio-session')")
    await page.reload()
    await answered(page, 1)
    assert await shown(page) == before
    assert await page.evaluate("sessionStorage.getItem('twin-sio-session')") == session
    await expect(page.locator("#devices li")).to_have_count(1)


async def test_joining_in_mid_answer_shows_all(opened: Opened, user: str, model: ScriptedModel) -> None:
    """A device that joins in mid answer sees all of it."""
    first = await opened(user)
    said = f"Tell me a long story, {user}"
    model.script(contains=said, count=70, hold_after=30)
    await say(first, said)
    await expect(first.locator("[data-state=streaming]")).to_be_visible(timeout=PATIENCE_MS)
    second = await opened(user)
    streaming = second.locator("[data-role=twin][data-state=streaming] .text")
    await expect(streaming).to_contain_text("You said: Tell me a long story", timeout=PATIENCE_MS)
    model.release(said)
    for device in (first, second):
        await answered(device, 1)
    assert await shown(first) == await shown(second)


async def test_stop_on_one_device_ends_the_answer_on_all(opened: Opened, user: str, model: ScriptedModel) -> None:
    laptop, phone = await opened(user), await opened(user)
    model.script(contains="without end", count=2000, token_delay_s=0.03)
    await say(laptop, "Talk without end")
    await expect(phone.locator("[data-state=streaming]")).to_be_visible(timeout=PATIENCE_MS)
    await phone.locator("#stop").click()
    for device in (laptop, phone):
        await expect(device.locator("[data-role=twin][data-state=stopped]")).to_be_visible(timeout=PATIENCE_MS)
        await expect(device.locator("#stop")).to_be_hidden()
    assert await shown(laptop) == await shown(phone)


async def test_an_answer_that_was_cut_offers_to_go_on(opened: Opened, user: str, model: ScriptedModel) -> None:
    """It says what cut it, also after a reload."""
    model.script(contains=f"a long story {user}", tokens=("Once", " upon"), reason="length", streams=True)
    page = await opened(user)
    await say(page, f"a long story {user}")
    cut = page.locator("[data-role=twin][data-state=complete]").first
    await expect(cut).to_contain_text("Cut off: it reached its longest length.", timeout=PATIENCE_MS)
    await page.reload()
    await expect(cut).to_contain_text("Cut off", timeout=PATIENCE_MS)
    await cut.get_by_role("button", name="Go on").click()
    await expect(page.locator("[data-role=user]").last).to_contain_text("Go on.", timeout=PATIENCE_MS)
    await answered(page, 2)
    await expect(page.locator(".go-on:visible")).to_have_count(1)


async def test_a_failed_answer_says_why_after_a_reload_too(opened: Opened, user: str, model: ScriptedModel) -> None:
    model.script(contains=f"with a wrong key {user}", status=401, streams=True)
    page = await opened(user)
    await say(page, f"with a wrong key {user}")
    failed = page.locator("[data-role=twin][data-state=failed]")
    await expect(failed).to_contain_text("has no access to its model", timeout=PATIENCE_MS)
    await page.reload()
    await expect(failed).to_contain_text("has no access to its model", timeout=PATIENCE_MS)


async def test_a_rating_shows_everywhere(opened: Opened, user: str) -> None:
    """A rating shows on the other device and after a reload."""
    laptop, phone = await opened(user), await opened(user)
    await say(laptop, "Was that good?")
    await answered(phone, 1)
    await laptop.get_by_role("button", name="Good answer").click()
    pressed = "[data-rating=up][aria-pressed=true]"
    await expect(phone.locator(pressed)).to_be_visible(timeout=PATIENCE_MS)
    await laptop.reload()
    await expect(laptop.locator(pressed)).to_be_visible(timeout=PATIENCE_MS)


async def on_top(node: Locator) -> bool:
    """Whether nothing covers it, and it is in the window."""
    return bool(
        await node.evaluate(
            """node => {
                node.style.pointerEvents = "auto"; // what lets taps through is found, too
                const { left, top, width, height } = node.getBoundingClientRect();
                return node.contains(document.elementFromPoint(left + width / 2, top + height / 2));
            }"""
        )
    )


class Network:
    """What a page has for a network, which may be lost."""

    def __init__(self) -> None:
        self.is_lost = False
        self.ends: list[WebSocketRoute] = []

    async def wire(self, page_end: WebSocketRoute) -> None:
        if self.is_lost:
            await page_end.close()
            return
        self.ends.append(page_end)
        page_end.connect_to_server()

    async def lose(self, page: Page) -> None:
        self.is_lost = True
        await page.context.set_offline(True)
        for page_end in self.ends:
            await page_end.close()
        await expect(page.locator("#connection")).to_have_attribute("data-state", "offline", timeout=PATIENCE_MS)

    async def find(self, page: Page) -> None:
        self.is_lost = False
        self.ends.clear()
        await page.context.set_offline(False)
        await expect(page.locator("#connection")).to_have_attribute("data-state", "online", timeout=PATIENCE_MS)


async def learnt(page: Page, model: ScriptedModel, text: str, key: str, value: str) -> None:
    found = {"key": key, "value": value, "polarity": "support", "kind": "explicit", "quote": text}
    model.script(contains=text, json_answer=json.dumps({"candidates": [found]}))
    await say(page, text)
    await expect(page.locator(".toast").filter(has_text=value)).to_be_visible(timeout=PATIENCE_MS)


async def test_the_profile_says_what_the_user_denies(opened: Opened, user: str, model: ScriptedModel) -> None:
    """With no button that would say the opposite of what it seems to, and that it is so where it has become so."""
    page = await opened(user)
    text = f"i dont smoke, {user}"
    denied = {"key": "habits.smoking", "value": "smoke", "polarity": "oppose", "kind": "explicit", "quote": text}
    model.script(contains=text, json_answer=json.dumps({"candidates": [denied]}))
    await say(page, text)
    await page.locator("#open-profile").click()
    trait = page.locator("#traits > li")
    await expect(trait.locator(".sure")).to_have_text("10 %, you said it is not so", timeout=PATIENCE_MS)
    await expect(trait.locator("[data-action=reject]")).to_have_count(0)
    await trait.get_by_text("It is so", exact=True).click()
    await expect(trait).to_have_attribute("data-status", "applied", timeout=PATIENCE_MS)


async def test_the_profile_is_corrected_by_keyboard(opened: Opened, user: str, model: ScriptedModel) -> None:
    """The profile shows why and is put right by keyboard on a phone."""
    phone = await opened(user, viewport={"width": 360, "height": 700})
    await learnt(phone, model, "I live in Graz <3 &amp; more", "location.city", "Graz")
    await phone.locator("#open-profile").click()
    trait = phone.locator("#traits > li[data-status=applied]")
    await expect(trait.locator(".value")).to_have_text("Graz")
    await expect(trait.locator(".sure")).to_have_text("90 %, used in answers")
    assert await trait.locator("meter").evaluate("meter => meter.value") == 0.9
    await trait.locator("summary").focus()
    await phone.keyboard.press("Enter")
    await expect(trait.locator("q")).to_have_text("I live in Graz <3 &amp; more")
    await expect(trait.locator(".weight")).to_contain_text("+8.00 · explicit")
    assert await phone.evaluate("document.querySelector('#profile').scrollWidth <= innerWidth")
    await trait.locator("[data-action=edit]").focus()
    await phone.keyboard.press("Enter")
    await phone.keyboard.type("Linz")
    await phone.keyboard.press("Enter")
    linz = phone.locator("#traits > li").filter(has=phone.get_by_text("Linz", exact=True))
    await expect(linz).to_have_attribute("data-status", "applied", timeout=PATIENCE_MS)
    graz = phone.locator("#traits > li").filter(has=phone.get_by_text("Graz", exact=True))
    await expect(graz).to_have_attribute("data-status", "superseded")
    await linz.locator("[data-action=reject]").focus()
    await phone.keyboard.press("Enter")
    await expect(linz).to_have_attribute("data-status", "rejected", timeout=PATIENCE_MS)
    assert await phone.evaluate("!!document.activeElement.closest('#traits li')")  # where the keyboard stood, it stands


async def test_the_profile_says_what_goes_wrong_where_one_looks(
    opened: Opened, user: str, model: ScriptedModel
) -> None:
    """In its dialog, which covers the page; what is said there without a connection is shown to wait, and is sent."""
    network = Network()
    phone = await opened(user, sockets=network.wire, viewport={"width": 360, "height": 700})
    await learnt(phone, model, "I live in Graz", "location.city", "Graz")
    profile = phone.locator("#profile")
    await phone.locator("#open-profile").click()
    trait = phone.locator("#traits > li[data-status=applied]")
    await expect(trait.locator(".value")).to_have_text("Graz")
    await network.lose(phone)
    await trait.locator("summary").click()
    told = profile.get_by_role("alert").get_by_text("The reasons could not be fetched.")
    await expect(told).to_be_visible(timeout=PATIENCE_MS)
    assert await on_top(told)
    await trait.locator("[data-action=reject]").click()
    await expect(trait.get_by_role("status")).to_have_text("“Wrong” is sent as soon as the connection is back.")
    await accessible(phone)
    await network.find(phone)
    await expect(phone.locator("#traits > li[data-status=rejected]")).to_be_visible(timeout=PATIENCE_MS)
    await expect(phone.locator("#traits .unsent")).to_have_text("")


async def test_a_profile_that_may_not_be_read_says_so(opened: Opened, user: str) -> None:
    page = await opened(user, scope="twin:chat")
    await page.locator("#open-profile").click()
    note = page.locator("#profile").get_by_role("status")
    await expect(note).to_have_text("The profile could not be fetched. Your token does not allow this.")
    assert await on_top(note)


async def test_a_trait_says_whose_it_is(opened: Opened, user: str) -> None:
    page = await opened(user)
    mia = {"kind": "person", "relation": "daughter", "name": "Mia"}
    shown = await page.evaluate(
        """async (traits) => {
            const { valueOf } = await import("/words.js");
            return traits.map(valueOf);
        }""",
        [
            {"value": "football", "entity": mia},
            {"value": "Mia", "entity": mia},
            {"value": "two kids", "entity": {"kind": "person", "relation": "kids", "count": 2}},
            {"value": "chess"},
        ],
    )
    assert shown == ["football (of Mia, daughter)", "Mia (daughter)", "two kids", "chess"]


async def test_a_bad_answer_is_corrected_with_reasons(
    opened: Opened, user: str, server: Server, model: ScriptedModel
) -> None:
    """A bad answer is put right in the users own words and with reasons."""
    page = await opened(user)
    await learnt(page, model, "I live in Brno", "location.city", "Brno")
    await say(page, "Where am I?")
    await answered(page, 2)
    right = "I live in Plzen"
    found = {"key": "location.city", "value": "Plzen", "polarity": "support", "kind": "explicit", "quote": right}
    model.script(contains=f'"{right}', json_answer=json.dumps({"candidates": [found]}))
    await page.locator("[data-role=twin] [data-rating=down]").last.click()
    await expect(page.locator(".toast").filter(has_text="Brno: now 84 % sure")).to_be_visible(timeout=PATIENCE_MS)
    await page.keyboard.type(right)
    await page.get_by_label("Not like me").check()
    await page.get_by_label("Anything else?").fill("You know me better")
    await page.keyboard.press("Enter")
    await expect(page.locator(".toast").filter(has_text="now knows: location, city, Plzen")).to_be_visible(
        timeout=PATIENCE_MS
    )
    await expect(page.locator(".reasons")).to_have_count(0)
    entry = {"Authorization": f"Bearer {create_token(user, DEV_SECRET, scope='twin:data')}"}
    async with aiohttp.ClientSession() as http, http.get(f"{server.url}/v1/export", headers=entry) as response:
        kept = await response.text()
    assert '"not_me"' in kept
    assert "You know me better" in kept


async def test_an_edit_that_is_called_off_changes_nothing(opened: Opened, user: str, model: ScriptedModel) -> None:
    page = await opened(user)
    await learnt(page, model, "I like the oboe", "interests.likes", "oboe")
    await page.locator("#open-profile").click()
    await page.locator("[data-action=edit]").click()
    await page.keyboard.type("flute")
    await page.keyboard.press("Escape")
    await expect(page.locator("#traits .value")).to_have_text("oboe")
    await expect(page.locator("#profile")).to_be_visible()
    await page.locator("[data-action=confirm]").click()
    await expect(page.locator("#traits .sure")).to_have_text("95 %, used in answers", timeout=PATIENCE_MS)


async def test_text_is_shown_as_text_whatever_it_holds(opened: Opened, user: str) -> None:
    page = await opened(user)
    text = "<img src=x onerror=\"document.title='owned'\"> & <b>bold</b>\nsecond line"
    await page.locator("#text").fill(text)
    await page.locator("#send").click()
    await answered(page, 1)
    assert (await shown(page))[0]["text"] == text
    assert await page.title() == "Twin"
    assert await page.locator(".messages img, .messages b").count() == 0


HOSTILE = """<script>document.title = "owned"</script>
<img src=x onerror="document.title='owned'"> and <b onclick=alert(1)>bold</b>

[one](javascript:document.title='owned') [two](JaVa\tscript:alert(1)) [three](data:text/html,<script>alert(1)</script>)
[four](vbscript:x) <javascript:alert(1)> [five](/v1/data)
![six](https://evil.example/pixel.png "t") &lt;i&gt; &#60;u&gt;

[ref]: javascript:alert(1)
[ref] <svg><style><img src onerror=alert(1)></style></svg>

```html"><img src=x onerror=alert(1)>
</code></pre><script>alert(1)</script>
```

| <img src=x onerror=alert(1)> | b |
|---|---|
| [x](javascript:alert(1)) | `<i>` |
"""


async def test_an_answer_is_markdown_that_can_do_nothing(opened: Opened, user: str, model: ScriptedModel) -> None:
    page = await opened(user)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    model.script(contains="hostile", tokens=tuple(HOSTILE[at : at + 7] for at in range(0, len(HOSTILE), 7)))
    await say(page, "Be hostile")
    await answered(page, 1)
    text = page.locator("[data-role=twin] .text")
    ours = ".copy-code, .copy-code *"  # the button beside the code
    names = "node => [...new Set([...node.querySelectorAll(`:not(${ours})`)].map(one => one.localName))]"
    made = await text.evaluate(names.replace("${ours}", ours))
    assert set(made) <= {"p", "span", "a", "br", "div", "pre", "code", "table", "thead", "tbody", "tr", "th", "td"}
    named = await text.evaluate("node => [...node.querySelectorAll('*')].flatMap(one => one.getAttributeNames())")
    assert {name for name in named if name.startswith("on")} == set()
    links = await text.locator("a").evaluate_all("list => list.map(one => [one.textContent, one.href, one.rel])")
    assert links == [["six", "https://evil.example/pixel.png", "noopener noreferrer nofollow"]]
    assert "<script>document.title = " in (shown_text := await text.inner_text())
    assert "<i> <u>" in shown_text
    assert await page.title() == "Twin"
    assert [url for url in asked if "evil.example" in url] == []


@pytest.mark.parametrize(
    "text", ["- " * 1600 + "deep", ">" * 3000 + "deep", "*" * 3000 + "deep" + "*" * 3000, "1. " * 900 + "deep"]
)
async def test_an_answer_is_never_shown_empty(opened: Opened, user: str, model: ScriptedModel, text: str) -> None:
    """Marks nested deeper than the parser can follow are shown as they were written."""
    page = await opened(user)
    model.script(contains=f"nest for {user}", tokens=("first ", "line\n\n", text))
    await say(page, f"nest for {user}")
    await answered(page, 1)
    assert "deep" in await page.locator("[data-role=twin] .text").inner_text()


async def test_a_link_changes_the_account_only_when_asked(opened: Opened, user: str) -> None:
    """A link with another user's token, in this tab and in a new one, asks first; Stay leaves all as it was."""
    page = await opened(user)
    status, dialog = page.locator("#connection"), page.locator("#other-account")
    await page.evaluate(f"location.hash = 'token={create_token('mallory', DEV_SECRET)}'")
    await expect(dialog).to_contain_text("mallory")
    await dialog.locator("#stay").click()
    await expect(status).to_have_text(f"Connected as {user}")
    second = await page.context.new_page()
    await second.goto(page.url + f"#token={create_token('mallory', DEV_SECRET)}")
    await expect(second.locator("#other-account")).to_contain_text(user)
    await second.locator("#switch").click()
    await expect(second.locator("#connection")).to_have_text("Connected as mallory")
    assert "token=" not in second.url


async def test_a_streaming_answer_keeps_finished_blocks(opened: Opened, user: str, model: ScriptedModel) -> None:
    """An answer is laid out while it streams and what stands stays."""
    page = await opened(user)
    parts = ("## Steps\n\nDo **this**:\n\n", "```python\ndef f():\n", "    return 1\n", "```\n\n- one\n- two\n")
    model.script(contains="lay it out", tokens=parts, hold_after=2)
    await say(page, "lay it out")
    text = page.locator("[data-role=twin] .text")
    await expect(text.locator("pre code")).to_have_text("def f():", timeout=PATIENCE_MS)
    await expect(text.locator(".hljs-keyword")).to_have_text("def")
    await page.evaluate("document.querySelector('.text h3').mine = document.querySelector('.text pre').mine = true")
    model.release("lay it out")
    await answered(page, 1)
    await expect(text.locator("ul > li")).to_have_text(["one", "two"])
    await expect(text.locator(".hljs-number")).to_have_text("1")
    await expect(text.locator("strong")).to_have_text("this")
    kept = "['h3', 'pre'].map(name => document.querySelector(`.text ${name}`).mine)"
    assert await page.evaluate(kept) == [True, True]


async def test_answers_to_one_message_are_alternatives_on_every_device(opened: Opened, user: str) -> None:
    laptop, phone = await opened(user), await opened(user, viewport={"width": 360, "height": 700})
    await say(laptop, "Choose a word")
    await answered(phone, 1)
    first = (await shown(phone))[-1]["id"]
    await laptop.get_by_role("button", name="Answer again").click()
    for device in (laptop, phone):
        await expect(device.locator(".count")).to_have_text("2 of 2", timeout=PATIENCE_MS)
        await answered(device, 1)
    second = (await shown(phone))[-1]["id"]
    assert first != second
    await phone.get_by_role("button", name="Earlier answer").click()
    await expect(phone.locator(".count")).to_have_text("1 of 2")
    assert [(await shown(device))[-1]["id"] for device in (phone, laptop)] == [first, second]


UNSPEAKABLE = "a\0b"  # refused as invalid, whoever sends it


async def test_a_refused_message_can_be_retried(opened: Opened, user: str) -> None:
    """A refused message says why and is tried again or rewritten."""
    page = await opened(user)
    await say(page, UNSPEAKABLE)
    refused = page.locator("[data-role=user][data-state=refused]")
    await expect(refused).to_contain_text("Not sent.", timeout=PATIENCE_MS)
    await refused.get_by_role("button", name="Try again").click()
    await expect(refused).to_have_count(1, timeout=PATIENCE_MS)
    await refused.get_by_role("button", name="Edit").click()
    await expect(page.locator("#text")).to_have_value(UNSPEAKABLE)
    await say(page, "shorter")
    await answered(page, 1)


async def test_a_search_leads_to_the_message(opened: Opened, server: Server, model: ScriptedModel, user: str) -> None:
    """Also far back in another conversation, and on a phone; an empty field shows the conversations again."""
    async with TwinClient(server.url, create_token(user, DEV_SECRET)) as client:  # a page takes a second for each
        await client.ask("The sails of the boat are red")
        for number in range(2, 30):
            model.script(contains=f"Something else, {number}", streams=True, tokens=("Yes.",))
            await client.ask(f"Something else, {number}")
    laptop, phone = await opened(user), await opened(user, viewport={"width": 360, "height": 700})
    await expect(laptop.locator("[data-role=user]").last).to_contain_text("Something else, 29", timeout=PATIENCE_MS)
    await expect(laptop.locator("[data-role=user]", has_text="The sails")).to_have_count(0)
    await laptop.locator("#new").click()
    await expect(laptop.locator(".empty")).to_be_visible()
    await phone.locator("#menu").click()
    for page in (laptop, phone):
        await page.locator("#search-text").fill("red sail")
        first = page.locator("#found .found-line").first
        await expect(first).to_contain_text("The sails of the boat are red", timeout=PATIENCE_MS)
        await expect(page.locator("#talks")).to_be_hidden()
        await accessible(page)
        await first.click()
        message = page.locator("[data-role=user]", has_text="The sails of the boat are red")
        await expect(message).to_be_focused(timeout=PATIENCE_MS)
        await expect(message).to_be_in_viewport()
    await expect(phone.locator("#side")).to_be_hidden()
    assert await phone.evaluate("document.documentElement.scrollWidth") <= 360
    await laptop.locator("#search-text").fill("")
    await expect(laptop.locator("#talks")).to_be_visible()
    await expect(laptop.locator("#found")).to_be_hidden()


async def test_the_page_itself_never_scrolls(opened: Opened, user: str, model: ScriptedModel) -> None:
    """The conversation scrolls in it, also to what a search has found."""
    page = await opened(user, viewport={"width": 360, "height": 640})
    model.script(contains="a long one", streams=True, tokens=("A line of many.\n\n" * 80,))
    await say(page, "The sails of the boat are red")
    await answered(page, 1)
    for number in (2, 3):
        await say(page, f"Tell me a long one, {number}")
        await answered(page, number)
    for width, height in ((360, 640), (1100, 700)):
        await page.set_viewport_size({"width": width, "height": height})
        assert await stands_still(page)
        if width == 360:
            await page.locator("#menu").click()
        await page.locator("#search-text").fill(f"red sail {width}")
        first = page.locator("#found .found-line").filter(has_text="you").filter(has_not_text="your twin")
        await first.click(timeout=PATIENCE_MS)
        message = page.locator("[data-role=user]", has_text="The sails of the boat are red")
        await expect(message).to_be_focused(timeout=PATIENCE_MS)
        await expect(message).to_be_in_viewport()
        assert await stands_still(page)


async def stands_still(page: Page) -> bool:
    """Whether the page is as high as its window and where it was at first."""
    return bool(await page.evaluate("document.documentElement.scrollHeight === innerHeight && scrollY === 0"))


async def test_what_was_refused_is_asked_for_after_a_while(opened: Opened, user: str) -> None:
    """A conversation whose page or whose list is refused asks again with growing pauses, and shows when it may."""
    asked: list[float] = []

    def wire(page_end: WebSocketRoute) -> None:
        server_end = page_end.connect_to_server()

        def passing(frame: str | bytes) -> None:
            request = re.match(r'42(\d+)\["(history|conversations)"', str(frame))
            if request is None or not is_refusing or len(asked) >= 3:
                server_end.send(frame)
                return
            if request[2] == "history":
                asked.append(monotonic())
            payload = {"code": "rate_limited", "message": "", "retryable": True, "retry_after_ms": 100}
            page_end.send(f"43{request[1]}" + json.dumps([{"type": "error", "payload": payload, "metadata": {}}]))

        page_end.on_message(passing)

    is_refusing = False
    page = await opened(user, sockets=wire)
    await say(page, "One thing")
    await answered(page, 1)
    is_refusing = True
    await page.locator("#new").click()
    await expect(page.locator(".empty")).to_be_visible(timeout=PATIENCE_MS)
    assert len(asked) == 3
    assert all(after - before > 0.25 for before, after in itertools.pairwise(asked))


async def test_what_is_refused_for_good_is_said_and_asked_for_once(opened: Opened, user: str) -> None:
    """A conversation that cannot be opened says why, and is not asked for again."""
    asked: list[str] = []

    def wire(page_end: WebSocketRoute) -> None:
        server_end = page_end.connect_to_server()

        def passing(frame: str | bytes) -> None:
            if re.match(r'42\d+\["history"', str(frame)):
                asked.append(str(frame))
            server_end.send(frame)

        page_end.on_message(passing)

    page = await opened(user, sockets=wire)
    await page.evaluate("sessionStorage.setItem('conversation', 'not an id')")
    asked.clear()
    await page.reload()
    await expect(page.locator(".empty")).to_contain_text("conversation_id", timeout=PATIENCE_MS)
    await page.wait_for_timeout(2500)
    assert len(asked) == 1
    await expect(page.locator(".empty")).to_be_visible()


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (
            {"code": "rate_limited", "retry_after_ms": 7_200_000},
            r"^Waits: No more can be answered for now\. Again at .*\d\d",
        ),
        ({"code": "busy", "retry_after_ms": 2_000}, r"^Waits: Your twin has several messages to answer\.$"),
    ],
)
async def test_a_message_that_has_to_wait_says_why(
    opened: Opened, user: str, refusal: dict[str, Any], told: str
) -> None:
    """Also one that is said behind it; and a rating goes through meanwhile."""
    is_refusing = False

    def wire(page_end: WebSocketRoute) -> None:
        server_end = page_end.connect_to_server()

        def passing(frame: str | bytes) -> None:
            request = re.match(r'42(\d+)\["user_message"', str(frame))
            if request is None or not is_refusing:
                server_end.send(frame)
                return
            payload = {"message": "", "retryable": True, **refusal}
            page_end.send(f"43{request[1]}" + json.dumps([{"type": "error", "payload": payload, "metadata": {}}]))

        page_end.on_message(passing)

    page, other = await opened(user, sockets=wire), await opened(user)
    await say(page, "One thing")
    await answered(page, 1)
    await answered(other, 1)
    is_refusing = True
    await say(page, "Another")
    await say(page, "And another")
    for note in await page.locator("[data-state=sending] .note").all():
        await expect(note).to_have_text(re.compile(told), timeout=PATIENCE_MS)
    await page.get_by_role("button", name="Good answer").click()
    await expect(other.get_by_role("button", name="Good answer")).to_have_attribute(
        "aria-pressed", "true", timeout=PATIENCE_MS
    )
    await expect(page.locator("[data-state=sending]")).to_have_count(2)


async def test_a_search_leads_to_the_message_over_a_lost_connection(opened: Opened, user: str) -> None:
    """What is being looked for when the connection is lost is shown once there is another."""
    lost: list[str] = []
    is_losing = False

    def wire(page_end: WebSocketRoute) -> None:
        server_end = page_end.connect_to_server()

        async def passing(frame: str | bytes) -> None:
            if is_losing and not lost and re.match(r'42\d+\["history"', str(frame)):
                lost.append(str(frame))
                await page_end.close()
                return
            server_end.send(frame)

        page_end.on_message(passing)

    page = await opened(user, sockets=wire)
    await say(page, "The sails of the boat are red")
    await answered(page, 1)
    await page.locator("#new").click()
    await expect(page.locator(".empty")).to_be_visible(timeout=PATIENCE_MS)
    await page.reload()
    await expect(page.locator("#connection")).to_have_attribute("data-state", "online", timeout=PATIENCE_MS)
    await expect(page.locator(".empty")).to_be_visible(timeout=PATIENCE_MS)
    is_losing = True
    await page.locator("#search-text").fill("red sail")
    await page.locator("#found .found-line").first.click(timeout=PATIENCE_MS)
    message = page.locator("[data-role=user]", has_text="The sails of the boat are red")
    await expect(message).to_be_focused(timeout=PATIENCE_MS)
    assert len(lost) == 1
    await expect(page.locator(".toast")).to_have_count(0)


async def test_conversations_are_listed_with_unread_counts(opened: Opened, user: str, model: ScriptedModel) -> None:
    """Conversations are listed with what is unread and opened from the list."""
    laptop, phone = await opened(user), await opened(user, viewport={"width": 360, "height": 700})
    await say(laptop, "About the garden")
    await answered(laptop, 1)
    await laptop.locator("#new").click()
    await expect(laptop.locator(".empty")).to_be_visible()
    await say(laptop, "About the boat")
    await answered(laptop, 1)
    await expect(laptop.locator(".conversation-line")).to_have_count(2, timeout=PATIENCE_MS)
    await answered(phone, 1)
    await phone.locator("#menu").click()
    boat = phone.locator(".conversation-line").filter(has_not=phone.locator("xpath=self::*[@aria-current]"))
    await expect(boat).to_have_count(1, timeout=PATIENCE_MS)
    await boat.click()
    await expect(phone.locator("#side")).to_be_hidden()
    await expect(phone.locator("[data-role=user] .text")).to_have_text("About the boat", timeout=PATIENCE_MS)
    await say(phone, "And the sails?")
    await answered(laptop, 2)
    model.script(contains="the mast", tokens=("A tall ", "one."), hold_after=1)
    await say(phone, "And the mast?")
    await expect(phone.locator("[data-state=streaming]")).to_be_visible(timeout=PATIENCE_MS)
    for device in (laptop, phone):  # nobody looks at it while it is answered
        await device.evaluate("document.querySelector('.conversation-line:not([aria-current])').click()")
        await expect(device.locator("[data-role=user] .text")).to_have_text("About the garden", timeout=PATIENCE_MS)
    model.release("the mast")
    await expect(laptop.locator(".conversation-line .unread")).to_have_text("1", timeout=PATIENCE_MS)
    await laptop.locator(".conversation-line:not([aria-current])").click()
    await expect(laptop.locator("[data-new] .text")).to_have_text("A tall one.", timeout=PATIENCE_MS)
    for device in (laptop, phone):
        await expect(device.locator(".conversation-line .unread")).to_have_count(0, timeout=PATIENCE_MS)


AXE = Axe()


async def accessible(page: Page) -> None:
    """Nothing that axe-core finds fault with, in what the page shows now."""
    await page.evaluate("Promise.all(document.getAnimations().map(one => one.finished.catch(() => {})))")
    found = await AXE.run(page)
    assert [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in found.response["violations"]] == []


async def test_nothing_stands_in_the_way_of_those_who_see_otherwise(
    opened: Opened, user: str, model: ScriptedModel
) -> None:
    page = await opened(user)
    await learnt(page, model, "I live in Turku", "location.city", "Turku")
    tokens = (
        "# A title\n\n`code`, [a link](https://a.example)\n\n```js\nlet a = 'b'; // c\n```\n\n|a|b|\n|-|-|\n|1|2|\n",
    )
    model.script(contains="everything", tokens=tokens)
    await say(page, "Show everything")
    await answered(page, 2)
    await say(page, UNSPEAKABLE)
    await expect(page.locator("[data-state=refused]")).to_be_visible(timeout=PATIENCE_MS)
    await page.locator("[data-rating=down]").last.click()
    await expect(page.locator(".reasons")).to_be_visible()
    for theme in ("light", "dark"):
        await page.set_viewport_size({"width": 1100, "height": 800})
        await page.locator("#theme").select_option(theme)
        assert await page.evaluate("getComputedStyle(document.body).colorScheme") == theme
        await accessible(page)
        await page.locator("#open-profile").click()

        async def reasons_shown() -> bool:
            # Again, where the list was made anew meanwhile: it is, when the profile comes.
            await page.locator("#traits details").evaluate("it => it.open = true")
            return await page.locator("#traits q").is_visible()

        await eventually(reasons_shown)
        await accessible(page)
        await page.locator("#profile-close").click()
        await page.set_viewport_size({"width": 360, "height": 700})
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await page.locator("#menu").click()
        await expect(page.locator("#conversations button")).to_be_visible()
        await accessible(page)
        await page.keyboard.press("Escape")
    await page.evaluate("sessionStorage.clear()")
    await page.reload()
    await expect(page.locator("#sign-in")).to_be_visible()
    assert await page.evaluate("document.documentElement.dataset.theme") == "dark"
    await accessible(page)


async def reached(page: Page, name: str) -> None:
    """Go there with the Tab key alone."""
    for _ in range(40):
        await page.keyboard.press("Tab")
        if await page.evaluate("name => document.activeElement.matches(name)", name):
            return
    pytest.fail(f"The keyboard does not get to {name}.")


async def test_the_keyboard_alone_is_enough(opened: Opened, user: str, model: ScriptedModel) -> None:
    page = await opened(user)
    await expect(page.locator("#text")).to_be_focused()
    model.script(contains="Endless", count=2000, token_delay_s=0.03)
    await page.keyboard.type("Endless")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("talk")
    await page.keyboard.press("Enter")
    await expect(page.locator("[data-role=user] .text")).to_have_text("Endless\ntalk")
    await expect(page.locator("[data-state=streaming]")).to_be_visible(timeout=PATIENCE_MS)
    await reached(page, "#stop")
    await page.keyboard.press("Enter")
    await expect(page.locator("[data-role=twin][data-state=stopped]")).to_be_visible(timeout=PATIENCE_MS)
    await reached(page, "[data-rating=down]")
    await page.keyboard.press("Enter")
    await page.keyboard.press("Shift+Tab")
    await page.keyboard.press("Space")
    await expect(page.locator("[name=tag]").last).to_be_checked()
    await page.keyboard.press("Escape")
    await expect(page.locator(".reasons")).to_have_count(0)
    await expect(page.locator("[data-rating=down]")).to_be_focused()
    await reached(page, "#text")
    await page.keyboard.press("ArrowUp")
    await expect(page.locator("#text")).to_have_value("Endless\ntalk")
    await reached(page, "#new")
    await page.keyboard.press("Enter")
    await expect(page.locator(".empty")).to_be_visible(timeout=PATIENCE_MS)
    await expect(page.locator("#text")).to_be_focused()
    await reached(page, "#open-profile")
    await page.keyboard.press("Enter")
    await expect(page.locator("#profile")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.locator("#profile")).to_be_hidden()
    await expect(page.locator("#open-profile")).to_be_focused()


async def test_unacknowledged_messages_survive_a_reload(opened: Opened, user: str) -> None:
    """What was not acknowledged before a reload is stored and answered once."""
    other = await opened(user)
    is_deaf = False

    def wire(page_end: WebSocketRoute) -> None:
        server_end = page_end.connect_to_server()
        server_end.on_message(lambda frame: None if is_deaf else page_end.send(frame))

    page = await opened(user, sockets=wire)
    is_deaf = True
    await say(page, "Did you hear me?")
    await answered(other, 1)  # stored; but the page does not know
    await say(page, "And this?")  # waits behind it: the server has not seen it
    await expect(page.locator("[data-state=sending]")).to_have_count(2)
    is_deaf = False
    await page.reload()
    for device in (page, other):
        await answered(device, 2)
    await expect(page.locator("[data-state=sending]")).to_have_count(0)
    assert await shown(page) == await shown(other)
    said = [message["text"] for message in await shown(page) if message["role"] == "user"]
    assert said == ["Did you hear me?", "And this?"]


async def test_what_a_closed_tab_has_not_sent_is_sent_by_another(opened: Opened, user: str) -> None:
    """It is sent once, and nothing is left of the tab; a tab that is open keeps what it has."""

    def wire(page_end: WebSocketRoute) -> None:
        server_end = page_end.connect_to_server()
        page_end.on_message(lambda frame: None if '"user_message"' in str(frame) else server_end.send(frame))

    outboxes = (
        "indexedDB.databases().then((all) => all.map((one) => one.name).filter((name) => /outbox/.test(name)).length)"
    )
    first = await opened(user)
    other = await opened(user, beside=first, sockets=wire)
    await say(other, "Did it get out?")
    await expect(other.locator("[data-state=sending]")).to_have_count(1)
    await first.reload()
    await expect(first.locator(".empty")).to_be_visible(timeout=PATIENCE_MS)
    assert await first.evaluate(outboxes) == 2
    await other.close()
    await first.reload()
    await answered(first, 1)
    assert [one["text"] for one in await shown(first) if one["role"] == "user"] == ["Did it get out?"]
    await expect(first.locator("[data-state=sending]")).to_have_count(0)
    assert await first.evaluate(outboxes) == 1


DRAFT = "twin-approval of what"
KEEP_DRAFT = f"sessionStorage.setItem('{DRAFT}', JSON.stringify({{expiresAt: '2999-01-01T00:00:00Z'}}))"


async def test_what_was_erased_is_seen_no_more(opened: Opened, server: Server, user: str) -> None:
    """A phone has room for why. What is changed of a call of a tool goes, too, and no later reload takes it."""
    page = await opened(user)
    await opened(user)
    await expect(page.locator("#device-count")).to_have_text("on 2 devices", timeout=PATIENCE_MS)
    await page.evaluate(KEEP_DRAFT)
    await say(page, "The sails of the boat are red")
    await answered(page, 1)
    await page.locator("#search-text").fill("red sail")
    await expect(page.locator("#found .found-line").first).to_be_visible(timeout=PATIENCE_MS)
    headers = {"Authorization": f"Bearer {create_token(user, DEV_SECRET, scope='twin:data')}"}
    async with aiohttp.ClientSession() as http, http.delete(f"{server.url}/v1/data", headers=headers) as response:
        assert response.status == 200
    await expect(page.locator("#connection")).to_have_attribute("data-state", "ended", timeout=PATIENCE_MS)
    await expect(page.locator(".message")).to_have_count(0)
    await expect(page.locator("body")).not_to_contain_text("sails")
    assert await page.evaluate(f"sessionStorage.getItem('{DRAFT}')") is None
    await page.set_viewport_size({"width": 360, "height": 700})
    await expect(page.locator(".state")).to_have_text(re.compile(r"^All data of this account was erased\.\s*$"))
    await expect(page.locator("#devices li")).to_have_count(0)
    assert await page.locator(".state").first.evaluate("it => it.scrollWidth <= it.clientWidth")
    await page.locator("#again").click()
    await expect(page.locator(".empty")).to_be_visible(timeout=PATIENCE_MS)
    await expect(page.locator(".message")).to_have_count(0)
    await page.evaluate(KEEP_DRAFT)
    await page.reload()
    await expect(page.locator("#connection")).to_have_attribute("data-state", "online", timeout=PATIENCE_MS)
    assert await page.evaluate(f"sessionStorage.getItem('{DRAFT}')") is not None


async def test_a_token_leaves_the_address_bar(opened: Opened, server: Server, user: str) -> None:
    """A token leaves the address bar and a bad one asks for another."""
    page = await opened(user)
    assert "#" not in page.url
    await page.evaluate("sessionStorage.clear()")
    await page.goto(f"{server.url}/?again#token=nonsense")
    await expect(page.locator("#sign-in")).to_be_visible(timeout=PATIENCE_MS)
    await expect(page.locator("#sign-in")).to_contain_text("not accepted")
    session = await page.evaluate("sessionStorage.getItem('twin-sio-session')")
    await page.locator("#token").fill(create_token(user, DEV_SECRET))
    await page.get_by_role("button", name="Open the chat").click()
    await expect(page.locator("#connection")).to_have_text(f"Connected as {user}", timeout=PATIENCE_MS)
    assert await page.evaluate("sessionStorage.getItem('twin-sio-session')") == session  # and with it what is unsent


@pytest.mark.parametrize("script", ["", _SLOW_AT_FIRST], ids=["", "in a browser that was slow"])
async def test_a_duplicated_tab_is_a_session_of_its_own(opened: Opened, user: str, script: str) -> None:
    page = await opened(user)
    if script:
        await page.context.add_init_script(script)
        await page.evaluate("sessionStorage.removeItem('twin-sio-session')")
        await page.reload()
        await expect(page.locator("#connection")).to_have_attribute("data-state", "online", timeout=PATIENCE_MS)
    async with page.context.expect_page() as opening:
        await page.evaluate("window.open('/')")
    twin = await opening.value
    await expect(twin.locator("#connection")).to_have_attribute("data-state", "online", timeout=PATIENCE_MS)
    await expect(page.locator("#devices li")).to_have_count(2, timeout=PATIENCE_MS)
    await expect(page.locator("#connection")).to_have_attribute("data-state", "online")


async def test_a_client_that_is_closed_at_once_leaves_the_session_to_the_next(opened: Opened, user: str) -> None:
    """As React's StrictMode does, also right after a reload."""
    page = await opened(user)
    kept = """async (url) => {
        sessionStorage.setItem('twin-sio-session', 'known');
        const { connect } = await import(`${url}twin-client.js`);
        const opened = () => connect({ url, getToken: () => 'none' });
        const ids = [];
        for (let turn = 0; turn < 2; turn += 1) {
            opened().close();
            const client = opened();
            while (client.state.connection === 'connecting') await new Promise((resolve) => setTimeout(resolve, 10));
            ids.push(client.state.sessionId, sessionStorage.getItem('twin-sio-session'));
            client.close();
        }
        return ids;
    }"""
    assert await page.evaluate(kept, page.url) == ["known"] * 4


async def test_a_browser_that_keeps_nothing_connects(opened: Opened, user: str) -> None:
    """Firefox lets a page without cookies open no channel to other pages."""
    page = await opened(user)
    await page.context.add_init_script("window.BroadcastChannel = function () { throw new DOMException('insecure') }")
    await page.reload()
    await expect(page.locator("#connection")).to_have_attribute("data-state", "online", timeout=PATIENCE_MS)


@asynccontextmanager
async def host_app_of(server: Server) -> AsyncIterator[str]:
    """The example app on an origin of its own, with a policy that lets it have the widget and nothing more."""
    ours = f"{server.url} {server.url.replace('http', 'ws')}"
    policy = f"default-src 'self'; script-src 'self' {server.url}; connect-src {ours}; img-src data:"
    policy += "; require-trusted-types-for 'script'"

    async def file(request: web.Request) -> web.Response:
        path = ROOT / "examples" / request.match_info["name"]
        text = path.read_text().replace("http://127.0.0.1:8000", server.url)
        kind = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}[path.suffix]
        return web.Response(text=text, content_type=kind, headers={"Content-Security-Policy": policy})

    app = web.Application()
    app.router.add_get("/{name}", file)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", server.host_app_port).start()
    try:
        yield f"http://127.0.0.1:{server.host_app_port}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def host_app(server: Server) -> AsyncIterator[str]:
    async with host_app_of(server) as url:
        yield url


async def test_the_widget_sends_its_pages_context(
    opened: Opened, user: str, host_app: str, model: ScriptedModel
) -> None:
    """The widget in another apps page tells the twin where its user is."""
    chat = await opened(user)
    sent: list[str | bytes] = []

    def wire(page_end: WebSocketRoute) -> None:
        server_end = page_end.connect_to_server()
        page_end.on_message(lambda frame: (sent.append(frame), server_end.send(frame)))

    app = await opened(user, at=f"{host_app}/host.html", sockets=wire)
    await say(app, "Where am I at first?")
    await answered(app, 1)
    await app.get_by_role("link", name="Cellar").click()
    await eventually(lambda: any("context_update" in str(frame) and "The cellar" in str(frame) for frame in sent))
    await say(app, "And where am I now?")
    for device in (app, chat):
        await answered(device, 2)
    assert await shown(app) == await shown(chat)
    prompts = [json.dumps(body["messages"]) for body in model.requests if body.get("stream")]
    assert "Red curry for two" in next(one for one in prompts if "at first?" in one and "now?" not in one)
    assert "The cellar" in next(one for one in prompts if "where am I now?" in one)
    assert await app.locator("#send").evaluate("node => getComputedStyle(node).borderTopStyle") == "solid"
    await accessible(app)
    await app.evaluate("twin.close()")
    await expect(app.locator("#text")).to_have_count(0)
    await expect(chat.locator("#devices li")).to_have_count(1, timeout=PATIENCE_MS)


async def test_devices_converge_through_a_killed_server(
    opened: Opened, user: str, server: Server, model: ScriptedModel
) -> None:
    """Two tabs and a phone converge through a server killed in mid answer."""
    tab, phone = await opened(user), await opened(user, viewport={"width": 360, "height": 700})
    second = await opened(user, beside=tab)
    model.script(contains="outlives", count=80, token_delay_s=0.03, times=2)
    await say(tab, "This outlives the server")
    await expect(phone.locator("[data-state=streaming]")).to_be_visible(timeout=PATIENCE_MS)
    server.child.kill()
    await expect(tab.locator("#connection")).to_have_attribute("data-state", "offline", timeout=PATIENCE_MS)
    await expect(tab.locator("#offline")).to_be_visible()
    await say(tab, "Sent while nobody listens")
    await expect(tab.locator("[data-role=user][data-state=sending]")).to_have_count(1)
    await server.start()
    for device in (tab, second, phone):
        await answered(device, 2)
    conversation = await shown(tab)
    assert await shown(phone) == conversation
    assert await shown(second) == conversation
    said = [message["text"] for message in conversation if message["role"] == "user"]
    assert said == ["This outlives the server", "Sent while nobody listens"]
