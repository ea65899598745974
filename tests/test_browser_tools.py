"""What the twin does beside talking, on the page and in the widget: steps, approvals, reasoning, steering."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Locator, Page, expect

from tests.scripted_model import ScriptedModel
from tests.test_browser import (  # noqa: F401 - its fixtures
    PATIENCE_MS,
    Opened,
    Server,
    accessible,
    browser,
    host_app,
    model,
    opened,
    reached,
    say,
    shown,
    user,
)
from tests.test_browser_writing import PHONE, fits

pytestmark = pytest.mark.xdist_group("tools")  # one server and one browser are enough


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory, model: ScriptedModel) -> AsyncIterator[Server]:  # noqa: F811
    folder = tmp_path_factory.mktemp("browser-tools")
    agent = {"TWIN_AGENT": "tests.page_agent:agent", "TWIN_HOST_TOOLS": "1", "TWIN_SHOW_REASONING": "1"}
    server = Server(folder, model, **agent)
    await server.start()
    try:
        yield server
    finally:
        await asyncio.to_thread(server.child.stop, 40)


MAIL = {"to": "bob@example.com", "text": "See you at eight", "copies": 2, "urgent": False, "tags": ["dinner"]}


def script_mail(model: ScriptedModel, said: str, **more: Any) -> None:  # noqa: F811
    """To these words the twin wants to send a mail, and says so before and after."""
    call = {"name": "send_mail", "arguments": {**MAIL, **more}}
    model.script(contains=said, streams=True, answered=0, tokens=("I write to Bob.",), calls=[call])
    model.script(contains=said, streams=True, answered=1, tokens=("That is done.",))


def results(model: ScriptedModel, said: str) -> list[str]:  # noqa: F811
    """What the model was told of its calls, in the last prompt about these words."""
    bodies = [body for body in model.requests if body.get("stream") and said in json.dumps(body)]
    return [one["content"] for one in bodies[-1]["messages"] if one["role"] == "tool"]


def answer(page: Page) -> Locator:
    return page.locator("[data-role=twin]").last


async def asked(page: Page) -> Locator:
    """The card of what the twin asks."""
    card = page.locator(".approval[data-state=pending]")
    await expect(card).to_be_visible(timeout=PATIENCE_MS)
    return card


async def asked_to_mail(page: Page, model: ScriptedModel, user: str, **more: Any) -> tuple[str, Locator]:  # noqa: F811
    """Say what the twin wants to send a mail for: the words, and the card of what it asks."""
    said = f"mail {user}"
    script_mail(model, said, **more)
    await say(page, said)
    return said, await asked(page)


async def done(page: Page, state: str = "complete") -> None:
    await expect(answer(page)).to_have_attribute("data-state", state, timeout=PATIENCE_MS)


async def test_steps_show_while_they_are_done_and_are_folded_in_the_history(
    opened: Opened,  # noqa: F811
    user: str,  # noqa: F811
    model: ScriptedModel,  # noqa: F811
) -> None:
    page, other = await opened(user), await opened(user)
    said = f"fly {user}"
    call = {"name": "find_flights", "arguments": {"city": "Oslo"}}
    model.script(contains=said, streams=True, answered=0, tokens=("I look.",), calls=[call])
    model.script(contains=said, streams=True, answered=1, tokens=("Take ", "the first."), hold_after=1)
    await say(page, said)
    for device in (page, other):
        step = device.locator(".step[data-state=done]")
        await expect(step).to_contain_text("Find flights", timeout=PATIENCE_MS)
        await expect(step).to_contain_text("3 flights to Oslo")
        await expect(device.locator(".steps")).to_have_attribute("open", "")
    model.release(said)
    await done(page)
    await other.reload()
    for device in (page, other):
        await expect(device.locator(".steps summary")).to_have_text("1 step", timeout=PATIENCE_MS)
        await expect(device.locator(".step")).to_be_hidden()
        await device.locator(".steps summary").click()
        await expect(device.locator(".step")).to_contain_text("3 flights to Oslo")
    await accessible(page)


async def test_an_approval_is_given_on_another_device(opened: Opened, user: str, model: ScriptedModel) -> None:  # noqa: F811
    """What waits shows on every device, also on one that comes later; it is decided once, for all."""
    laptop = await opened(user)
    said = f"mail {user}"
    script_mail(model, said)
    await say(laptop, said)
    await asked(laptop)
    phone = await opened(user, **PHONE)
    card = await asked(phone)
    await expect(card).to_contain_text("bob@example.com")
    await expect(phone.locator(".thinking")).to_have_text("Your twin waits for you")
    assert await fits(phone)
    await card.get_by_role("button", name="Allow").tap()
    for device in (laptop, phone):
        await done(device)
        await expect(device.locator(".approval")).to_have_count(0)
        assert (await shown(device))[-1]["text"] == "I write to Bob.\n\nThat is done.".replace("\n\n", "")
    assert results(model, said) == ["Sent to bob@example.com: See you at eight (2, False, ['dinner'])"]


async def test_a_call_is_changed_before_it_is_allowed(opened: Opened, user: str, model: ScriptedModel) -> None:  # noqa: F811
    page = await opened(user)
    said, card = await asked_to_mail(page, model, user)
    await card.get_by_role("button", name="Change").click()
    await expect(card.get_by_label("to", exact=True)).to_be_focused()
    await card.get_by_label("to", exact=True).fill("eve@example.com")
    await card.get_by_label("copies").fill("three")
    await card.get_by_role("button", name="Allow it so").click()
    await expect(card.locator(".wrong")).to_contain_text("“copies” cannot be read")
    await card.get_by_label("copies").fill("3")
    await card.get_by_label("urgent").check()
    await card.get_by_label("tags").fill('["work"]')
    await accessible(page)
    await card.get_by_role("button", name="Allow it so").click()
    await done(page)
    assert results(model, said) == ["Sent to eve@example.com: See you at eight (3, True, ['work'])"]


KEPT = "Object.keys(sessionStorage).filter(key => key.startsWith('twin-approval')).length"


async def test_what_is_changed_of_a_call_survives_a_reload(opened: Opened, user: str, model: ScriptedModel) -> None:  # noqa: F811
    """Until it is given up, or decided; nothing of it is sent before, and the field for messages keeps the focus."""
    page = await opened(user)
    said, card = await asked_to_mail(page, model, user)
    await card.get_by_role("button", name="Change").click()
    await card.get_by_label("to", exact=True).fill("eve@example.com")
    await card.get_by_label("copies").fill("three")
    await card.get_by_label("urgent").check()
    await page.reload()
    card = await asked(page)
    await expect(card.get_by_label("to", exact=True)).to_have_value("eve@example.com")
    await expect(card.get_by_label("to", exact=True)).not_to_be_focused()
    await expect(card.get_by_label("copies")).to_have_value("three")
    await expect(card.get_by_label("urgent")).to_be_checked()
    await expect(card.get_by_label("tags")).to_have_value('[\n  "dinner"\n]')
    await card.get_by_role("button", name="Back").click()
    assert await page.evaluate(KEPT) == 0
    await page.reload()
    card = await asked(page)
    await card.get_by_role("button", name="Change").click()
    await expect(card.get_by_label("to", exact=True)).to_have_value("bob@example.com")
    await card.get_by_label("to", exact=True).fill("ann@example.com")
    await page.reload()
    card = await asked(page)
    await card.get_by_role("button", name="Allow it so").click()
    await done(page)
    assert results(model, said) == ["Sent to ann@example.com: See you at eight (2, False, ['dinner'])"]
    assert await page.evaluate(KEPT) == 0


async def test_what_was_to_be_changed_is_gone_once_another_device_decides(
    opened: Opened,  # noqa: F811
    user: str,  # noqa: F811
    model: ScriptedModel,  # noqa: F811
) -> None:
    laptop, phone = await opened(user), await opened(user)
    _, card = await asked_to_mail(laptop, model, user)
    await card.get_by_role("button", name="Refuse").click()
    await card.get_by_label("Why not?").fill("Not to B")
    await laptop.reload()
    card = await asked(laptop)
    await expect(card.get_by_label("Why not?")).to_have_value("Not to B")
    await (await asked(phone)).get_by_role("button", name="Allow").click()
    await done(laptop)
    assert await laptop.evaluate(KEPT) == 0


async def test_a_call_is_refused_with_a_word_of_why(opened: Opened, user: str, model: ScriptedModel) -> None:  # noqa: F811
    page = await opened(user)
    said, card = await asked_to_mail(page, model, user)
    await card.get_by_role("button", name="Refuse").click()
    await page.keyboard.type("Not to Bob")
    await page.keyboard.press("Escape")
    await expect(card.get_by_role("button", name="Allow")).to_be_focused()
    await card.get_by_role("button", name="Refuse").click()
    await page.keyboard.type("Not to Bob")
    await page.keyboard.press("Enter")
    await done(page)
    assert "Not to Bob" in results(model, said)[0]
    await expect(page.locator(".steps summary")).to_have_text("1 step, 1 not done")
    await expect(page.locator("#text")).to_be_focused()


async def test_an_answer_that_waits_can_be_stopped(opened: Opened, user: str, model: ScriptedModel) -> None:  # noqa: F811
    page, other = await opened(user), await opened(user)
    said = f"mail {user}"
    script_mail(model, said)
    await say(page, said)
    for device in (page, other):
        await asked(device)
    await other.locator("#stop").click()
    for device in (page, other):
        await done(device, "stopped")
        await expect(answer(device)).to_contain_text("Stopped by you")
        await expect(device.locator(".approval")).to_have_count(0)
        await expect(device.locator(".thinking")).to_be_hidden()
    assert await shown(page) == await shown(other)


async def test_what_the_twin_thinks_is_folded_and_no_part_of_its_answer(
    opened: Opened,  # noqa: F811
    user: str,  # noqa: F811
    model: ScriptedModel,  # noqa: F811
) -> None:
    page = await opened(user)
    said = f"think {user}"
    model.script(contains=said, streams=True, reasoning=("Hm, ", "let me see."), tokens=("Yes", "."), hold_after=1)
    await say(page, said)
    await expect(page.locator(".reasoning summary")).to_be_visible(timeout=PATIENCE_MS)
    await expect(page.locator(".reasoning p")).to_be_hidden()
    model.release(said)
    await done(page)
    assert (await shown(page))[-1]["text"] == "Yes."
    await page.reload()
    await page.locator(".reasoning summary").click()
    await expect(page.locator(".reasoning p")).to_have_text("Hm, let me see.")
    await accessible(page)


async def test_a_message_ends_the_answer_or_waits_or_is_taken_in(
    opened: Opened,  # noqa: F811
    user: str,  # noqa: F811
    model: ScriptedModel,  # noqa: F811
) -> None:
    page = await opened(user)
    model.script(contains=f"endless {user}", count=2000, token_delay_s=0.03)
    await say(page, f"endless {user}")
    await expect(page.locator("[data-state=streaming]")).to_be_visible(timeout=PATIENCE_MS)
    await expect(page.locator(".modes")).to_be_hidden()
    await page.locator("#text").fill("Stop that, and this instead?")
    await expect(page.locator(".modes")).to_be_visible()
    await page.locator("#text").press("Control+Enter")
    await expect(page.locator("[data-role=twin][data-state=stopped]")).to_contain_text(
        "Stopped by your next message", timeout=PATIENCE_MS
    )
    await done(page)
    said = f"fly {user}"
    call = {"name": "find_flights", "arguments": {"city": "Oslo"}}
    model.script(contains=said, streams=True, answered=0, tokens=("I ", "look."), hold_after=1, calls=[call])
    model.script(contains=f"to Rome, {user}", streams=True, answered=1, tokens=("To Rome it is.",))
    await say(page, said)
    await expect(page.locator("[data-state=streaming]")).to_be_visible(timeout=PATIENCE_MS)
    await page.locator("#text").fill(f"to Rome, {user}")
    await page.get_by_role("button", name="Add it to the answer").click()
    added = page.locator("[data-role=user]", has_text="to Rome")
    await expect(added).to_have_attribute("data-state", "stored", timeout=PATIENCE_MS)
    model.release(said)
    await done(page)
    await expect(added).to_contain_text("Taken into the answer", timeout=PATIENCE_MS)
    assert (await shown(page))[-1]["text"].endswith("To Rome it is.")


async def test_another_conversation_says_that_it_waits(opened: Opened, user: str, model: ScriptedModel) -> None:  # noqa: F811
    page = await opened(user)
    said = f"mail {user}"
    script_mail(model, said)
    await page.locator("#new").click()
    await say(page, said)
    await asked(page)
    other = await opened(user)
    line = other.locator(".conversation-line:not([aria-current])")
    await expect(line).to_have_count(1, timeout=PATIENCE_MS)
    await line.click()
    card = await asked(other)
    await other.locator("#new").click()
    await expect(line.locator(".asks")).to_have_text("waits for you", timeout=PATIENCE_MS)
    await accessible(other)
    await line.click()
    await card.get_by_role("button", name="Allow").click()
    await done(other)
    await other.locator("#new").click()
    await expect(other.locator(".asks")).to_have_count(0, timeout=PATIENCE_MS)


async def test_the_keyboard_alone_decides(opened: Opened, user: str, model: ScriptedModel) -> None:  # noqa: F811
    page = await opened(user)
    said = f"mail {user}"
    script_mail(model, said)
    await say(page, said)
    await asked(page)
    await expect(page.locator("[role=status].unseen").last).to_contain_text("Your twin asks: Send the mail")
    await reached(page, ".allow")
    await page.keyboard.press("Enter")
    await expect(page.locator("#text")).to_be_focused()
    await done(page)


LONG = {"to": "x" * 200, "text": "שלום עולם, " * 40, "copies": 12}


async def test_everything_fits_at_all_widths_in_both_themes(opened: Opened, user: str, model: ScriptedModel) -> None:  # noqa: F811
    page = await opened(user)
    _, card = await asked_to_mail(page, model, user, **LONG)
    await page.locator("#text").fill("Something else meanwhile")
    for theme in ("light", "dark"):
        await page.set_viewport_size({"width": 1280, "height": 800})
        await page.locator("#theme").select_option(theme)
        for width in (1280, 768, 390):
            await page.set_viewport_size({"width": width, "height": 800})
            assert await fits(page)
            assert await card.evaluate("node => node.scrollWidth <= node.clientWidth + 1")
        await accessible(page)
    await page.evaluate("document.documentElement.dir = 'rtl'")
    assert await fits(page)
    await card.get_by_role("button", name="Change").click()
    assert await fits(page)
    await accessible(page)


async def test_the_widget_asks_in_320_pixels(
    opened: Opened,  # noqa: F811
    user: str,  # noqa: F811
    host_app: str,  # noqa: F811
    model: ScriptedModel,  # noqa: F811
) -> None:
    app = await opened(user, at=f"{host_app}/host.html", viewport={"width": 320, "height": 700})
    said = f"mail {user}"
    script_mail(model, said, **LONG)
    await say(app, said)
    card = await asked(app)
    assert await card.evaluate("node => node.scrollWidth <= node.clientWidth + 1")
    assert await fits(app)
    await accessible(app)
    await card.get_by_role("button", name="Allow").click()
    await done(app)
