"""Makes the pictures of the README: the real server and a scripted model, in Chromium.   python tools/screenshots.py

Needs what `make setup-test` and `make browser` set up. Writes docs/chat.png (1280 and 390 px),
docs/chat-phone.png (390 px), docs/chat-scripts.png (768 and 390 px, from right to left), docs/profile.png and
docs/widget.png (960 and 320 px).
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, async_playwright, expect

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.scripted_model import ScriptedModel  # noqa: E402
from tests.test_browser import FLAGS, PATIENCE_MS, Server, answered, host_app_of, program, say  # noqa: E402
from twin_sio.dev_tokens import DEV_SECRET, create_token  # noqa: E402

DOCS = ROOT / "docs"
CURRY = """For **two**, in half an hour:

1. Fry two spoons of *red curry paste* in coconut cream.
2. Add chicken, lemongrass, a little fish sauce.
3. Thai basil at the very end.

She comes straight from the night shift, so keep it mild."""
CODE = """Here you are, it keeps the ratio:

```python
def scaled(grams: dict[str, int], people: int) -> dict[str, float]:
    return {name: amount * people / 2 for name, amount in grams.items()}
```

| | for 2 | for 5 |
|---|--:|--:|
| coconut milk | 400 ml | 1000 ml |
| curry paste | 40 g | 100 g |"""
DINNER = """**للعشاء** لشخصين، في نصف ساعة:

1. أرز بالزعفران مع الليمون
2. سلطة خضراء، وخبز طازج

| المكوّن | الكمية |
|---|--:|
| أرز | 250 g |
| زعفران | 0,5 g |"""
SOUP = "**شوربة عدس**: اغلِ العدس 20~25 دقيقة. In English: *red lentil soup*."
WINE = "A cold **Vinho Verde** goes well with the heat, and Grace likes it dry. For her there is still the ginger beer."


def tokens(text: str) -> tuple[str, ...]:
    return tuple(text[at : at + 5] for at in range(0, len(text), 5))


def learnt(key: str, value: str, quote: str) -> dict[str, str]:
    return {"key": key, "value": value, "polarity": "support", "kind": "explicit", "quote": quote}


def script(model: ScriptedModel) -> None:
    """What the twin says, and what it learns, by the text it gets."""
    said = {
        "I moved to Porto": ("Porto suits you. Where do you get good curry paste there?", [
            learnt("location.city", "Porto", "I moved to Porto in spring"),
            learnt("interests.likes", "red curry", "I love a red curry"),
        ]),
        "night shifts": ("Then I will keep suggestions for the evening quiet.", [
            learnt("family.sister", "Grace, a nurse", "My sister Grace is a nurse"),
        ]),
        "for my sister": (CURRY, []),
        "for five": (CODE, []),
        "drink with it": (WINE, []),
        "ماذا أطبخ": (DINNER, []),
        "soup": (SOUP, []),
    }  # fmt: skip
    for contains, (answer, found) in said.items():
        held = {"hold_after": 15} if answer is WINE else {}
        json_answer = json.dumps({"candidates": found})
        model.script(contains=contains, tokens=tokens(answer), json_answer=json_answer, **held)


class Studio:
    """Pages of one user, opened and photographed."""

    def __init__(self, browser: Browser, server: Server) -> None:
        self.browser = browser
        self.server = server

    async def open(self, url: str, scheme: str, width: int, height: int, *, agent: str = "", user: str = "ada") -> Page:
        options: dict[str, Any] = {"user_agent": agent} if agent else {}
        viewport = {"width": width, "height": height}
        context = await self.browser.new_context(viewport=viewport, color_scheme=scheme, locale="en-GB", **options)  # type: ignore[arg-type]
        page = await context.new_page()
        await page.goto(f"{url}#token={create_token(user, DEV_SECRET)}")
        await expect(page.locator("#connection, .state[role=status]")).to_have_attribute("data-state", "online")
        return page


async def shoot(pages: list[Page], to: str) -> None:
    """One picture of the pages beside each other, on a quiet ground."""
    frames = []
    for page in pages:
        shot = (await page.screenshot(animations="disabled", caret="hide")).hex()
        frames.append({"png": shot, **(page.viewport_size or {})})
    width = sum(frame["width"] for frame in frames) + 30 * (len(frames) + 1)
    stage = await pages[0].context.browser.new_page(  # type: ignore[union-attr]
        viewport={"width": width, "height": max(frame["height"] for frame in frames) + 60}
    )
    await stage.set_content(
        "<body style='margin:0;padding:30px;display:flex;gap:30px;align-items:end;background:#d9d5cb'></body>"
    )
    await stage.evaluate(
        """async frames => { for (const { png, width, height } of frames) {
            const image = new Image(width, height);
            image.style = 'border-radius:14px;box-shadow:0 8px 30px rgb(0 0 0/.22)';
            image.src = URL.createObjectURL(new Blob([Uint8Array.from(png.match(/../g), it => parseInt(it, 16))]));
            document.body.append(image);
            await image.decode();
        } }""",
        frames,
    )
    await stage.screenshot(path=DOCS / to)
    await stage.close()


async def pictures(studio: Studio, model: ScriptedModel) -> None:
    home = f"{studio.server.url}/"
    laptop = await studio.open(home, "light", 1280, 760)
    for count, text in enumerate(
        ("I moved to Porto in spring, and I love a red curry.", "My sister Grace is a nurse, she has night shifts."), 1
    ):
        await say(laptop, text)
        await answered(laptop, count)
        await expect(laptop.locator(".toast").first).to_be_visible(timeout=PATIENCE_MS)
    agent = "Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 Chrome/140.0 Mobile Safari/537.36"
    phone = await studio.open(home, "dark", 390, 760, agent=agent)
    await answered(phone, 2)
    await say(phone, "What could I cook for my sister tonight?")
    await answered(laptop, 3)
    await expect(laptop.locator(".toast")).to_have_count(0, timeout=PATIENCE_MS)
    await say(laptop, "And what do we drink with it?")
    for page in (laptop, phone):
        await expect(page.locator("[data-state=streaming]")).to_contain_text("Grace likes", timeout=PATIENCE_MS)
    await shoot([laptop, phone], "chat.png")
    model.release("drink with it")
    await answered(laptop, 4)
    await say(phone, "Write me the amounts for five, as a function")
    await answered(phone, 5)
    await expect(phone.locator(".hljs-keyword").first).to_be_visible()
    small = await studio.open(home, "light", 390, 760)
    await answered(small, 5)
    await small.locator("#menu").click()
    await expect(small.locator("#conversations button")).to_be_visible()
    await shoot([phone, small], "chat-phone.png")
    await laptop.locator("#open-profile").click()
    await laptop.locator("#traits summary").first.click()
    await expect(laptop.locator("#traits q").first).to_be_visible()
    await shoot([laptop], "profile.png")
    async with host_app_of(studio.server) as url:
        app = await studio.open(f"{url}/host.html", "light", 960, 620)
        narrow = await studio.open(f"{url}/host.html", "dark", 320, 620)
        for one in (app, narrow):
            await answered(one, 5)
        await shoot([app, narrow], "widget.png")
    await scripts(studio, home)


async def scripts(studio: Studio, home: str) -> None:
    """A conversation in two scripts, light and dark."""
    tablet = await studio.open(home, "light", 768, 760, user="amal")
    phone = await studio.open(home, "dark", 390, 760, user="amal")
    for count, text in enumerate(("What soup did we have in Amman?", "ماذا أطبخ الليلة لأختي؟"), 1):
        await say(tablet, text)
        for one in (tablet, phone):
            await answered(one, count)
    await shoot([tablet, phone], "chat-scripts.png")


async def main() -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = await stack.enter_async_context(ScriptedModel(token_delay_s=0.02))
        script(model)
        server = Server(folder, model)
        await server.start()
        stack.push_async_callback(asyncio.to_thread, server.child.stop, 20)
        playwright = await stack.enter_async_context(async_playwright())
        browser = await playwright.chromium.launch(executable_path=program(), args=FLAGS)
        stack.push_async_callback(browser.close)
        await pictures(Studio(browser, server), model)


if __name__ == "__main__":
    asyncio.run(main())
