"""Formulas in answers, in a real browser: laid out where they are meant, as they were written where not."""

from __future__ import annotations

import time

import pytest
from playwright.async_api import Page, expect

from tests.scripted_model import ScriptedModel
from tests.test_browser import (  # noqa: F401 - its fixtures
    PATIENCE_MS,
    Opened,
    Server,
    accessible,
    answered,
    browser,
    host_app,
    model,
    opened,
    say,
    server,
    user,
)
from tests.test_browser_writing import answer, fits

pytestmark = pytest.mark.xdist_group("formulas")  # one server and one browser are enough

FORMULAS = r"""Einstein's $E = mc^2$ and Euler's \(e^{i\pi} + 1 = 0\), where **$a_1 * b_1$** is *not* cut.

$$
\sum_{i=1}^{n} i
= \frac{n(n+1)}{2}
$$

and in a sentence
\[
x = \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
\]

- an item with $\sqrt{2}$

| name | value |
|---|---|
| golden | $\frac{1+\sqrt5}{2}$ |
"""

NO_FORMULAS = r"""It costs $5 and $10, or US$20 to US$30, or $5 or 5$ each, $5/mo vs $6/mo.

Run `echo $HOME$PATH` or $HOME/bin:$PATH and kill $$ and $$; \$x\$ and \[a link\] and \[1\].

```sh
export A=$B C=$D
$$x^2$$
```

    $$ y^2 $$
"""


async def maths(page: Page) -> list[str]:
    """What the formulas show."""
    return await page.locator("[data-role=twin] .text math").evaluate_all("list => list.map(one => one.textContent)")


async def test_formulas_are_laid_out(opened: Opened, user: str, model: ScriptedModel) -> None:  # noqa: F811
    page = await opened(user)
    await answer(page, model, FORMULAS, f"teach {user}")
    text = page.locator("[data-role=twin] .text")
    await expect(text.locator("math")).to_have_count(7)
    assert (await maths(page))[0].replace(" ", "") == "E=mc2"
    assert await text.locator("msup, mfrac, msqrt, mtable, munderover").count() >= 6
    assert await text.locator(".math[data-display] math").count() == 2
    sizes = await text.locator("math").evaluate_all("list => list.map(one => one.getBoundingClientRect().height)")
    assert all(size > 5 for size in sizes)
    assert await text.locator("em").all_inner_texts() == ["not"]
    assert "$" not in (shown := await text.inner_text())
    assert "\\" not in shown
    await accessible(page)
    await page.reload()
    await expect(page.locator("[data-role=twin] .text math")).to_have_count(7)


async def test_prices_and_shells_are_no_formulas(opened: Opened, user: str, model: ScriptedModel) -> None:  # noqa: F811
    """Nothing is laid out, nothing is changed, and what would do it is not even asked for."""
    page = await opened(user)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await answer(page, model, NO_FORMULAS, f"price {user}")
    text = page.locator("[data-role=twin] .text")
    shown = await text.inner_text()
    for said in ("$5 and $10, or US$20 to US$30, or $5 or 5$ each, $5/mo vs $6/mo.", "echo $HOME$PATH", "$$x^2$$"):
        assert said in shown
    assert "kill $$ and $$; $x$ and [a link] and [1]." in shown
    assert await text.locator(".math").count() == 0
    assert [url for url in asked if "math" in url] == []


@pytest.mark.parametrize(
    "source",
    [
        "x+" * 5_000,
        "{" * 1_000 + "x^2" + "}" * 1_000,
        r"\sqrt" * 390 + "{x}",
        r"\left(" * 300 + "x=1" + r"\right)" * 300,
        "x^" * 900 + "1",
        r"\frac{a",
        r"\unknown{x}^2",
        r"\def\a{\a\a}\a = 1",
        r"\def\a{xxxxxxxx=}\def\b{\a\a\a\a\a\a\a\a}\b\b\b\b\b",
        "x" * 1_900 + "=1",
    ],
    ids=lambda source: source[:16],
)
async def test_a_formula_beyond_bounds_is_shown_as_written(
    opened: Opened,  # noqa: F811
    user: str,  # noqa: F811
    model: ScriptedModel,  # noqa: F811
    source: str,
) -> None:
    """It neither holds up the page nor vanishes, and its neighbours are laid out."""
    page = await opened(user)
    began = time.monotonic()
    await answer(page, model, f"$a^2$ then\n\n$${source}$$\n\n$b^2$ end", f"try {user}")
    text = page.locator("[data-role=twin] .text")
    await expect(text.locator("math")).to_have_count(2)
    assert source in (await text.text_content() or "")
    assert await page.evaluate("1 + 1") == 2
    assert time.monotonic() - began < 10
    assert await fits(page)


HOSTILE = [
    r"$\href{javascript:alert(1)}{x^2}$",
    r"$\url{javascript:alert(1)}$",
    r"$\includegraphics{https://evil.example/pixel.png}$",
    r"$\class{message}{x^2}$",
    r"$\id{send}{x^2}$",
    r"$\style{position:fixed;inset:0}{x^2}$",
    r"$\data{x=y}{x^2}$",
    r"$\text{<img src=x onerror=alert(1)>} = 1$",
    r"$\color{red;position:fixed}{x^2}$",
    r"$\rule{9999em}{9999em} = 1$",
    r"$x \hspace{99999em} y = 1$",
    r"$$x = 1 \label{send} \tag{<script>alert(1)</script>}$$",
    r"$\begin{array}{|c|} \\[9999em] x^2 \end{array}$",
]


async def test_a_formula_can_do_nothing(opened: Opened, user: str, model: ScriptedModel) -> None:  # noqa: F811
    """No link, no picture, no names or classes of the page's, no size beyond its place; `opened` sees to the policy."""
    page = await opened(user)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await answer(page, model, "\n\n".join(["$ok^2$", *HOSTILE]), f"attack {user}")
    text = page.locator("[data-role=twin] .text")
    await expect(text.locator("math").first).to_be_visible()
    assert await text.locator("a, img, script, iframe, svg, style, [id], [href], [src], [onerror]").count() == 0
    classes = await text.evaluate("node => [...node.querySelectorAll('math *')].flatMap(one => [...one.classList])")
    assert [name for name in classes if not name.startswith("tml-")] == []
    assert "position" not in await text.evaluate(
        "node => [...node.querySelectorAll('[style]')].map(one => one.getAttribute('style')).join()"
    )
    assert [url for url in asked if "evil.example" in url] == []
    tall = await text.evaluate("node => Math.max(...[...node.children].map(one => one.getBoundingClientRect().height))")
    assert tall < 2_000
    assert await fits(page)


async def test_a_formula_is_laid_out_once_it_is_whole(opened: Opened, user: str, model: ScriptedModel) -> None:  # noqa: F811
    page = await opened(user)
    script = f"slowly {user}"
    model.script(contains=script, tokens=("First $a^2$, then\n\n$$", "x = \\frac{1}{2}", "$$\n\ndone"), hold_after=2)
    await say(page, script)
    text = page.locator("[data-role=twin] .text")
    await expect(text.locator("math")).to_have_count(1, timeout=PATIENCE_MS)
    await expect(text).to_contain_text("$$x = ")
    model.release(script)
    await answered(page, 1)
    await expect(text.locator("mfrac")).to_have_count(1)


async def test_a_wide_formula_scrolls_in_its_place(opened: Opened, user: str, model: ScriptedModel) -> None:  # noqa: F811
    page = await opened(user, viewport={"width": 360, "height": 700})
    await answer(page, model, "$$" + " + ".join(f"x_{{{n}}}" for n in range(60)) + "$$", f"wide {user}")
    box = page.locator("[data-role=twin] .math[data-display]")
    await expect(box.locator("math")).to_have_count(1)
    assert await box.evaluate("node => node.scrollWidth > node.clientWidth || node.clientHeight > 60")  # or is wrapped
    assert await fits(page)


async def test_the_widget_lays_formulas_out(
    opened: Opened,  # noqa: F811
    user: str,  # noqa: F811
    host_app: str,  # noqa: F811
    model: ScriptedModel,  # noqa: F811
) -> None:
    """In another app's page, under its policy; fetched from the service at the first formula."""
    page = await opened(user, at=f"{host_app}/host.html")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await answer(page, model, "no formula at all", f"plain {user}")
    assert [url for url in asked if "math" in url] == []
    await answer(page, model, r"so $E = mc^2$", f"physics {user}")
    await expect(page.locator("[data-role=twin] .text math msup")).to_have_count(1)
    assert len([url for url in asked if "math" in url]) == 1


async def test_a_page_without_its_typesetter_shows_what_was_written(
    opened: Opened,  # noqa: F811
    user: str,  # noqa: F811
    model: ScriptedModel,  # noqa: F811
) -> None:
    page = await opened(user)
    await page.route("**/math.js", lambda route: route.abort())
    async with page.expect_event("requestfailed"):
        await answer(page, model, "so $E = mc^2$ it is", f"alone {user}")
    assert "so $E = mc^2$ it is" in await page.locator("[data-role=twin] .text").inner_text()
