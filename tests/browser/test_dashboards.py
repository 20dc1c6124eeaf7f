"""Prefect's dashboard in a real Chromium: a run is asked for by its form, and cancelled by its button."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from pangu.stack import Stack

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="Debian's chromium is not installed"),
]
SLOW_MS = 60_000
CANCELLED = "cancelled-in-the-dashboard"


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(locale="en-GB", viewport={"width": 1280, "height": 860})
    context.set_default_timeout(SLOW_MS)
    expect.set_options(timeout=SLOW_MS)
    yield context.new_page()
    context.close()


def property_of(page: Page, name: str) -> Locator:
    """The field of a form, by the first words of its label."""
    label = page.locator(".schema-form-property__label", has_text=re.compile(rf"^{name}\b"))
    return page.locator(".schema-form-property").filter(has=label).last


def open_form(page: Page, stack: Stack, deployment: str) -> None:
    """From the list of deployments to the form of one, as a person goes."""
    page.goto(f"{stack.prefect_url}/deployments")
    page.get_by_role("link", name=deployment, exact=True).last.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    expect(property_of(page, "Card")).to_be_visible()


def submit(page: Page, stack: Stack, run_name: str) -> None:
    """Give the run a name, start it, and open its page."""
    page.locator(".p-label", has_text="Run Name").get_by_role("textbox").fill(run_name)
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text(re.compile("scheduled|submitted", re.IGNORECASE)).first).to_be_visible()
    page.goto(f"{stack.prefect_url}/runs")
    page.get_by_role("link", name=run_name, exact=True).first.click()
    expect(page.locator(".state-badge, .p-tag").first).to_be_visible()


def state(page: Page, word: str) -> Locator:
    """The state of the run whose page is open."""
    return page.locator(".page-heading-flow-run, header, [role=banner]").get_by_text(word, exact=True).first


def test_a_run_is_cancelled_by_its_button(page: Page, stack: Stack, card_that_takes_forever: Path) -> None:
    open_form(page, stack, "ingest-images")
    property_of(page, "Card").get_by_role("textbox").fill(str(card_that_takes_forever))
    submit(page, stack, CANCELLED)
    expect(state(page, "Running")).to_be_visible(timeout=SLOW_MS)
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Confirm").click()
    expect(state(page, "Cancelled")).to_be_visible(timeout=SLOW_MS)
