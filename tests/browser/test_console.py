"""The pages of a stack in a real Chromium: what runs, a dataset and its thresholds, trainings under way; and every page, the
studio's too, by the rules of WCAG 2.2 A and AA, on a phone, in the dark, in both languages.

`PANGU_SCREENSHOTS` names a folder for the pictures of docs/.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, expect

from pangu.console.console_app import build_console
from pangu.console.console_guard import key_of
from pangu.data.table.versions import log
from pangu.stack import Stack
from pangu.storage import Home
from tests import subtests
from tests.browser import NEEDED
from tests.console.home_with_pictures import DRAWINGS, NAME, begin_training, go_on, prepared
from tests.serve.local import LocalServer, running

pytestmark = [
    pytest.mark.browser,
    NEEDED,
]
SLOW_MS = 60_000
RULES = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 860}
DATASET = f"/datasets/{NAME}"
PLACES = {
    "home": "/", "datasets": "/datasets", "kept": DATASET, "dropped": DATASET, "thresholds": f"{DATASET}/0",
    "training": "/training", "absent": "/datasets/unknown",
}  # fmt: skip


class Pages:
    """A home's pages that answer."""

    def __init__(self, home: Home, url: str) -> None:
        self.home, self.url = home, url


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """Of a home without a stack, with a dataset and the beginning of a training."""
    home = Home(tmp_path_factory.mktemp("home"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PANGU_HOME", str(home.root))  # of the commands that a page starts
        prepared(home, tmp_path_factory.mktemp("card"))
        for role in ("structure", "texture"):
            begin_training(home, role)
        server = uvicorn.Server(uvicorn.Config(build_console(home), "127.0.0.1", 0, log_level="warning"))
        with running(server) as url:
            yield Pages(home, url)


def opened(browser: Browser, **options: Any) -> BrowserContext:
    context = browser.new_context(**({"locale": "en-GB", "viewport": DESK, "reduced_motion": "reduce"} | options))
    context.set_default_timeout(SLOW_MS)
    expect.set_options(timeout=SLOW_MS)
    return context


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = opened(browser)
    page = context.new_page()
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    yield page
    assert not failures
    context.close()


def goto(page: Page, pages: Pages, name: str) -> None:
    """One of `PLACES`, drawn to its end."""
    page.goto(f"{pages.url}{PLACES[name]}")
    if name in ("kept", "dropped", "thresholds"):
        expect(page.locator("#content img").first).to_be_visible()
    if name in ("dropped", "thresholds"):
        page.locator("#about .tabs button").nth(1 if name == "dropped" else 2).click()
        expect(page.locator("#content .tabs, #content form")).to_be_visible()
    expect(page.locator("main section:visible").first).not_to_be_empty()


def test_rows_are_looked_through_and_near_duplicates_stand_side_by_side(page: Page, pages: Pages) -> None:
    goto(page, pages, "kept")
    expect(page.locator("#content figure")).to_have_count(24)
    page.get_by_role("button", name="Next").click()
    expect(page.locator("#content figure")).to_have_count(DRAWINGS - 24)
    page.get_by_role("button", name="Dropped 3").click()
    page.get_by_role("button", name="near duplicate 2").click()
    expect(page.locator("#content figure")).to_have_count(2)
    pair = page.locator("#content figure").first
    first, second = pair.locator("img").all()
    assert first.get_attribute("alt") == f"{second.get_attribute('alt')} again"
    expect(pair).to_contain_text("of 64 bits differ")
    pair.get_by_role("button").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("dialog[open] img")).to_have_count(2)
    shown = page.locator("dialog[open] img").first
    expect(shown).to_have_js_property("complete", True)
    assert shown.evaluate("image => image.naturalWidth") == 120
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)


def test_other_thresholds_are_seen_by_all_and_made_by_whoever_has_the_key(page: Page, pages: Pages) -> None:
    goto(page, pages, "thresholds")
    field = page.get_by_label("Longer over shorter side, at most")
    field.fill("0.5")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_role("alert").last).to_contain_text("greater than or equal to 1")
    field.fill("2")
    page.get_by_label("Smaller side, px, at least").fill("64")
    small = DRAWINGS // 4
    expect(page.locator("#outcome figure")).to_have_count(small)
    expect(page.locator("#outcome .figures")).to_contain_text(f"{small}would go")
    assert [entry.version for entry in log(pages.home, NAME)] == [0]
    page.get_by_role("button", name="Make a new version").click()
    page.get_by_label("Key", exact=True).fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Key", exact=True)).to_have_value("")
    assert [entry.version for entry in log(pages.home, NAME)] == [0]
    page.get_by_label("Key", exact=True).fill(key_of(pages.home))
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_text("Version 1 is made.")).to_be_visible()
    expect(page.locator("pre")).to_have_text("filters:\n  min_side: 64")
    page.get_by_role("link", name="Look at it").click()
    expect(page.get_by_role("button", name=f"Kept {DRAWINGS - small}")).to_be_visible()
    assert [entry.facts.get("refiltered") for entry in log(pages.home, NAME)] == ["0", None]


def test_both_halves_are_watched_while_they_train(page: Page, pages: Pages) -> None:
    goto(page, pages, "training")
    for half in ("Structure half", "Texture half"):
        expect(page.get_by_role("heading", name=half)).to_contain_text("training")
    expect(page.get_by_text("step 10 of 40")).to_have_count(2)
    expect(page.get_by_role("button", name="side by side")).to_have_count(0)
    go_on(pages.home.run("structure-run"), 20)
    expect(page.get_by_text("step 20 of 40")).to_be_visible()
    expect(page.get_by_role("img", name="Samples at step 20")).to_be_visible()
    assert page.get_by_role("img", name="Loss of structure-run").locator("path").count() == 2
    sheet = pages.home.dataset(NAME) / "before_after-x.png"
    sheet.write_bytes((pages.home.run("structure-run") / "samples" / "step-000010.png").read_bytes())
    shown = page.get_by_role("img", name=f"Before and after the last retraining of {NAME}")
    expect(shown).to_have_js_property("naturalWidth", 200)
    slider = page.get_by_label("Sample grid")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("img.sheet").first).to_have_attribute("src", "/api/trainings/structure-run/grids/10")
    page.get_by_role("button", name="side by side").click()
    expect(page.locator("dialog[open] figcaption").last).to_contain_text("step 20")


def kept_picture(page: Page, name: str) -> None:
    """For the documentation, or for whoever looks at all of them, where a folder is named."""
    if folder := os.environ.get("PANGU_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


@subtests.parametrize(
    ("language", "scheme", "window"),
    [("en-GB", "light", DESK), ("zh-CN", "dark", PHONE)],
)
def test_no_page_breaks_a_rule_of_wcag_or_runs_over_the_edge(
    browser: Browser, pages: Pages, server: LocalServer, language: str, scheme: Any, window: Any
) -> None:
    context = opened(browser, locale=language, color_scheme=scheme, viewport=window)
    page, name = context.new_page(), f"{language[:2]}_{scheme}_{window['width']}"
    for place in PLACES:
        goto(page, pages, place)
        assert wrong(page, window) == [], place
        kept_picture(page, f"{place}_{name}")
    page.goto(f"{server.url}/studio")
    expect(page.locator("#size option")).not_to_have_count(0)
    assert wrong(page, window) == []
    page.fill("#prompt", "a red apple")
    page.click("#draw")
    expect(page.locator("#gallery figure")).to_have_count(1)
    for part in page.locator("summary:visible").all():
        part.click()
    assert wrong(page, window) == []
    kept_picture(page, f"studio_{name}")
    context.close()


def wrong(page: Page, window: dict[str, int]) -> list[str]:
    """Rules that the page breaks, each with its first place; words that one language lacks; and an edge that it runs over."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options={"runOnly": RULES}).response["violations"]
    said = [f"{one['id']}: {one['nodes'][0]['html']}" for one in found]
    said += page.evaluate(
        "() => ['en', 'zh'].flatMap((one) => Object.keys(WORDS[one]).filter((name) => !WORDS.en[name] || !WORDS.zh[name]))"
    )
    if page.evaluate("document.documentElement.scrollWidth") > window["width"]:
        said.append("it runs over the edge")
    return said


def test_the_first_page_shows_the_stack_and_hands_its_token_to_whoever_has_the_key(
    browser: Browser, stack: Stack
) -> None:
    context = opened(browser, permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(stack.console_url)
    for name in ("Prefect", "Prefect worker", "MLflow", "Ray"):
        part = page.locator("#parts li").filter(has=page.get_by_text(name, exact=True))
        expect(part.locator(".state")).to_have_text("answers")
    for door, address in (
        ("Prefect", stack.prefect_url),
        ("MLflow", stack.mlflow_url),
        ("Ray", stack.ray_dashboard_url),
    ):
        expect(page.locator("#parts .doors").get_by_role("link", name=door)).to_have_attribute("href", address)
    page.get_by_role("button", name="Copy Ray's token").click()
    expect(page.get_by_role("dialog")).to_contain_text("pangu status")
    page.keyboard.press("Escape")
    page.goto(f"{stack.console_url}/#key={key_of(Home(stack.home))}")
    page.reload()
    page.get_by_role("button", name="Copy Ray's token").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("() => navigator.clipboard.readText()") == stack.token
    assert "#" not in page.url
    assert wrong(page, DESK) == []
    context.close()
