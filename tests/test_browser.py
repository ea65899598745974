"""The chat page in a real browser, against the service as `make run` starts it, with a scripted model."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from tests.scripted_model import ScriptedModel
from twin_sio.cli.tokens import mint
from twin_sio.clock import new_id
from twin_sio.config import DEV_SECRET
from twin_sio.local import Child, free_port

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
    """`python server.py` on a port of its own, with MongoDB and Redis embedded."""

    def __init__(self, folder: Path, model: ScriptedModel) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        env = {
            "TWIN_ENV": "dev",
            "PORT": str(self.port),
            "TWIN_DATA_DIR": str(folder / "data"),
            "TWIN_TURN_LEASE_S": "1",
            "OPENAI_BASE_URL": model.base_url,
            "OPENAI_API_KEY": "scripted",
            "TWIN_MODEL": "scripted",
            "TWIN_MONGODB_URL": "",
            "TWIN_REDIS_URL": "",
        }
        self.child = Child("server", [sys.executable, str(ROOT / "server.py")], log=folder / "server.log", env=env)

    async def start(self) -> None:
        self.child.start()
        async with asyncio.timeout(60), aiohttp.ClientSession() as http:
            while not await self._is_ready(http):
                assert self.child.alive, self.child.log and self.child.log.read_text()
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


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.fail("No browser on PATH: install chromium, or run `make test`, which does.")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        await browser.close()


Opened = Callable[..., Awaitable[Page]]


@pytest.fixture
async def opened(server: Server, browser: Browser) -> AsyncIterator[Opened]:
    """Opens the page as a device of a user: `await opened("ada")`. No page may have failed in between."""
    contexts: list[BrowserContext] = []
    errors: list[str] = []

    async def open_page(user: str, **options: Any) -> Page:
        context = await browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        page = await context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if "Content Security" in message.text else None)
        await page.goto(f"{server.url}/#token={mint(user, DEV_SECRET)}")
        await expect(page.locator("#connection")).to_have_attribute("data-state", "online", timeout=PATIENCE_MS)
        return page

    yield open_page
    for context in contexts:
        await context.close()
    assert errors == []


@pytest.fixture
def user() -> str:
    return f"user-{new_id()}"


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


async def test_a_reload_keeps_the_conversation_and_the_session(opened: Opened, user: str) -> None:
    page = await opened(user)
    await say(page, "Remember this.")
    await answered(page, 1)
    before = await shown(page)
    session = await page.evaluate("sessionStorage.getItem('twin-sio-session')")
    await page.reload()
    await answered(page, 1)
    assert await shown(page) == before
    assert await page.evaluate("sessionStorage.getItem('twin-sio-session')") == session
    await expect(page.locator("#devices li")).to_have_count(1)


async def test_a_device_that_joins_in_mid_answer_sees_all_of_it(
    opened: Opened, user: str, model: ScriptedModel
) -> None:
    first = await opened(user)
    model.script(contains="a long story", count=120, token_delay_s=0.03)
    await say(first, "Tell me a long story")
    await expect(first.locator("[data-state=streaming]")).to_be_visible(timeout=PATIENCE_MS)
    second = await opened(user)
    streaming = second.locator("[data-role=twin][data-state=streaming] .text")
    await expect(streaming).to_contain_text("You said: Tell me a long story", timeout=PATIENCE_MS)
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


async def test_a_rating_shows_on_the_other_device_and_after_a_reload(opened: Opened, user: str) -> None:
    laptop, phone = await opened(user), await opened(user)
    await say(laptop, "Was that good?")
    await answered(phone, 1)
    await laptop.get_by_role("button", name="Good answer").click()
    pressed = "[data-rating=up][aria-pressed=true]"
    await expect(phone.locator(pressed)).to_be_visible(timeout=PATIENCE_MS)
    await laptop.reload()
    await expect(laptop.locator(pressed)).to_be_visible(timeout=PATIENCE_MS)


async def learnt(page: Page, model: ScriptedModel, text: str, key: str, value: str) -> None:
    found = {"key": key, "value": value, "polarity": "support", "kind": "explicit", "quote": text}
    model.script(contains=text, json_answer=json.dumps({"candidates": [found]}))
    await say(page, text)
    await expect(page.locator(".toast").filter(has_text=value)).to_be_visible(timeout=PATIENCE_MS)


async def test_the_profile_shows_why_and_is_put_right_by_keyboard_on_a_phone(
    opened: Opened, user: str, model: ScriptedModel
) -> None:
    phone = await opened(user, viewport={"width": 360, "height": 700})
    await learnt(phone, model, "I live in Graz <b>now</b>", "location.city", "Graz")
    await phone.locator("#open-profile").click()
    trait = phone.locator("#traits > li[data-status=applied]")
    await expect(trait.locator(".value")).to_have_text("Graz")
    await expect(trait.locator(".sure")).to_have_text("90 %, used in answers")
    assert await trait.locator("meter").evaluate("meter => meter.value") == 0.9
    await trait.locator("summary").focus()
    await phone.keyboard.press("Enter")
    await expect(trait.locator("q")).to_have_text("I live in Graz <b>now</b>")
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


async def test_a_bad_answer_is_put_right_in_the_users_own_words(
    opened: Opened, user: str, model: ScriptedModel
) -> None:
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
    await page.keyboard.press("Enter")
    await expect(page.locator(".toast").filter(has_text="now knows: location, city, Plzen")).to_be_visible(
        timeout=PATIENCE_MS
    )
    await expect(page.locator(".reasons")).to_have_count(0)


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


async def test_a_token_leaves_the_address_bar_and_a_bad_one_asks_for_another(
    opened: Opened, server: Server, user: str
) -> None:
    page = await opened(user)
    assert "#" not in page.url
    await page.evaluate("sessionStorage.clear()")
    await page.goto(f"{server.url}/?again#token=nonsense")
    await expect(page.locator("#sign-in")).to_be_visible(timeout=PATIENCE_MS)
    await expect(page.locator("#sign-in")).to_contain_text("not accepted")
    await page.locator("#token").fill(mint(user, DEV_SECRET))
    await page.get_by_role("button", name="Open the chat").click()
    await expect(page.locator("#connection")).to_have_text(f"Connected as {user}", timeout=PATIENCE_MS)


async def test_a_duplicated_tab_is_a_session_of_its_own(opened: Opened, user: str) -> None:
    page = await opened(user)
    async with page.context.expect_page() as opening:
        await page.evaluate("window.open('/')")
    twin = await opening.value
    await expect(twin.locator("#connection")).to_have_attribute("data-state", "online", timeout=PATIENCE_MS)
    await expect(page.locator("#devices li")).to_have_count(2, timeout=PATIENCE_MS)
    await expect(page.locator("#connection")).to_have_attribute("data-state", "online")


async def test_a_server_killed_in_mid_answer_costs_nothing_that_was_sent(
    opened: Opened, user: str, server: Server, model: ScriptedModel
) -> None:
    laptop, phone = await opened(user), await opened(user)
    model.script(contains="outlives", count=150, token_delay_s=0.03, times=2)
    await say(laptop, "This outlives the server")
    await expect(phone.locator("[data-state=streaming]")).to_be_visible(timeout=PATIENCE_MS)
    server.child.kill()
    await expect(laptop.locator("#connection")).to_have_attribute("data-state", "offline", timeout=PATIENCE_MS)
    await say(laptop, "Sent while nobody listens")
    await expect(laptop.locator("[data-role=user][data-state=sending]")).to_have_count(1)
    await server.start()
    for device in (laptop, phone):
        await answered(device, 2)
    conversation = await shown(laptop)
    assert await shown(phone) == conversation
    said = [message["text"] for message in conversation if message["role"] == "user"]
    assert said == ["This outlives the server", "Sent while nobody listens"]
