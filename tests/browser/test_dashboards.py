"""The dashboards of the running stack in a real Chromium: a retraining from the form, by a person's yes, to its artifacts, a
cancelled run, the pair in MLflow and the jobs in Ray.

`PANGU_SCREENSHOTS` names a folder for the pictures of docs/operating.md.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from pangu.data.example.openmoji import render_png, selection
from pangu.stack import Stack
from pangu.stack.prefect_api import prefect_api
from pangu.storage import write_json
from tests.browser import NEEDED
from tests.dashboard import finish, press

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    NEEDED,
]
SLOW_MS = 60_000
RUN_MS = 900_000
"""The whole main job, on a busy machine."""
DRAWN_MS = 3_000
"""What is drawn late, as a graph, has come by then."""
ASKED = 5
"""So often a person would press *Submit*."""
RETRAINING, CANCELLED = "asked-for-in-the-form", "cancelled-in-the-dashboard"
DRAWINGS = 12


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    window = {"width": 1440, "height": 900}
    context = browser.new_context(locale="en-GB", viewport=window, reduced_motion="reduce")
    context.set_default_timeout(SLOW_MS)
    expect.set_options(timeout=SLOW_MS)
    yield context.new_page()
    context.close()


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dozen drawings in a folder, every other one small."""
    folder = tmp_path_factory.mktemp("card")
    (folder / "images").mkdir()
    for index, one in enumerate(selection(DRAWINGS)):
        (folder / f"images/{index}.png").write_bytes(render_png(one, 48 if index % 2 else 128))
        write_json(folder / f"images/{index}.json", {"en": one.caption_en, "zh": one.caption_zh})
    path = folder / "browser.yaml"
    path.write_text(
        "name: browser\nsource: images\ncolumns: {caption_en: en, caption_zh: zh}\nlicence: {name: CC BY-SA 4.0}\n"
        "texture_min_side: 64\nupscale: {target_side: 96, upscaler: lanczos, min_timestep: 300}\n"
    )
    return path


def keep(page: Page, name: str) -> None:
    """A picture for the documentation, where one is asked for."""
    if folder := os.environ.get("PANGU_SCREENSHOTS"):
        page.wait_for_timeout(DRAWN_MS)
        page.screenshot(path=Path(folder) / f"{name}.png")


def property_of(page: Page, name: str) -> Locator:
    """The field of a form, by all capitalised words of its label."""
    label = page.locator(".schema-form-property__label", has_text=re.compile(rf"^{name}\b(?! [A-Z])"))
    return page.locator(".schema-form-property").filter(has=label).last


def choose(page: Page, name: str, before: str, chosen: str) -> None:
    """Another choice in a field of a form."""
    shown = property_of(page, name).get_by_role("button", name=before, exact=True)
    shown.press("ArrowDown")  # a click alone opens nothing
    page.get_by_role("option", name=chosen, exact=True).click()


def open_form(page: Page, stack: Stack, deployment: str) -> None:
    """From the list of deployments to the form of one, as a person goes."""
    page.goto(f"{stack.prefect_url}/deployments")
    named = page.get_by_role("link", name=deployment, exact=True)
    named.and_(page.locator("[href*='/deployments/deployment/']")).first.click()  # its flow has the same name
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    expect(property_of(page, "Dataset card")).to_be_visible()
    expect(page.get_by_text("Property is type")).to_have_count(0)


def unfold(page: Page) -> None:
    """Open what the form folds."""
    page.get_by_role("button", name="Add item").first.click()
    expect(property_of(page, "Time limit of a stage")).to_be_visible()


def submit(page: Page, stack: Stack, run_name: str) -> None:
    """Give the run a name, start it, again if Prefect's SQLite was busy, and open its page."""
    page.locator(".p-label", has_text="Run Name").get_by_role("textbox").fill(run_name)
    accepted = page.get_by_text(re.compile("scheduled|submitted", re.IGNORECASE)).first
    refused = page.get_by_text("Oops. Something went wrong.").first
    for _ in range(ASKED):
        while refused.is_visible():
            page.get_by_role("button", name="Close").first.click()
        page.get_by_role("button", name="Submit").click()
        expect(accepted.or_(refused).first).to_be_visible()
        if accepted.is_visible():
            break
    expect(accepted).to_be_visible()
    page.goto(f"{stack.prefect_url}/runs")
    page.get_by_role("link", name=run_name, exact=True).first.click()
    expect(page.locator(".state-badge, .p-tag").first).to_be_visible()


def open_newest(page: Page, stack: Stack, key: str) -> None:
    """The page of the newest artifact of a key."""
    with prefect_api(stack) as api:
        asked = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC", "limit": 1}
        (artifact,) = api.post("/artifacts/filter", json=asked).raise_for_status().json()
    page.goto(f"{stack.prefect_url}/artifacts/artifact/{artifact['id']}")


def state(page: Page, word: str) -> Locator:
    """The state of the run whose page is open."""
    return page.locator(".page-heading-flow-run, header, [role=banner]").get_by_text(word, exact=True).first


def open_run_once_it_is(page: Page, word: str) -> None:
    """From the list of runs to the page of the retraining, as soon as it is in that state."""
    listed = page.locator(".state-list-item", has_text=RETRAINING)
    expect(listed.get_by_text(word, exact=True).first).to_be_visible(timeout=RUN_MS)
    listed.get_by_role("link", name=RETRAINING, exact=True).first.click()
    expect(state(page, word)).to_be_visible()


@pytest.fixture(scope="module")
def retrained(page: Page, stack: Stack, card: Path) -> None:
    """A retraining by the form: card, recipe, steps and approval chosen, serving switched off; then the person says yes."""
    open_form(page, stack, "retrain-pair")
    choose(page, "Recipe", "automatic", "tiny")
    property_of(page, "Training steps").get_by_role("spinbutton").fill("6")
    keep(page, "prefect_form")
    unfold(page)
    property_of(page, "Another card's file").get_by_role("textbox").fill(str(card))
    choose(page, "Approval", "none", "person")
    property_of(page, "Serve it").get_by_role("switch").click()
    submit(page, stack, RETRAINING)
    expect(state(page, "Running")).to_be_visible(timeout=RUN_MS)
    page.goto(f"{stack.prefect_url}/runs")  # the graph of a run under way is drawn anew all the time
    open_run_once_it_is(page, "Paused")
    page.get_by_role("button", name="Resume", exact=True).click()
    property_of(page, "Release").get_by_role("switch").click()
    property_of(page, "Note").get_by_role("textbox").fill("The foxes look like foxes.")
    keep(page, "prefect_approval")
    page.get_by_role("button", name="Submit").click()
    expect(state(page, "Paused")).to_be_hidden()
    page.goto(f"{stack.prefect_url}/runs")
    open_run_once_it_is(page, "Completed")
    keep(page, "prefect_run")


@pytest.mark.long
def test_a_retraining_leaves_its_report_and_the_gates_decision_as_artifacts(
    page: Page, retrained: None, stack: Stack
) -> None:
    page.get_by_role("listitem").filter(has_text=re.compile("^Artifacts$")).click()
    for key in ("prepare-report", "samples-new-and-old", "gate-decision", "links"):
        expect(page.get_by_role("link", name=key).first).to_be_visible()
    for key, heading in (("gate-decision", "Gate: open"), ("train-structure-report", "train-structure: 6 of 6 steps")):
        open_newest(page, stack, key)
        expect(page.get_by_role("heading", name=heading)).to_be_visible()
        keep(page, f"prefect_{key}")


@pytest.mark.long
def test_what_was_changed_in_the_form_is_what_was_trained(page: Page, retrained: None, stack: Stack) -> None:
    page.goto(f"{stack.prefect_url}/runs")
    page.get_by_role("link", name=RETRAINING, exact=True).first.click()
    page.get_by_role("listitem").filter(has_text=re.compile("^Parameters$")).click()
    expect(page.get_by_text(re.compile('"steps": 6')).first).to_be_visible()


def test_a_run_is_cancelled_by_its_button(page: Page, stack: Stack, card_that_takes_forever: Path) -> None:
    open_form(page, stack, "ingest-images")
    unfold(page)
    hours = property_of(page, "Time limit of a stage").get_by_role("spinbutton")
    hours.fill("0")
    page.get_by_role("button", name="Submit").click()
    wrong = property_of(page, "Time limit of a stage").get_by_text("0 is less than or equal to the minimum of 0")
    expect(wrong).to_be_visible()
    keep(page, "prefect_wrong_value")
    hours.fill("")
    property_of(page, "Another card's file").get_by_role("textbox").fill(str(card_that_takes_forever))
    submit(page, stack, CANCELLED)
    expect(state(page, "Running")).to_be_visible(timeout=SLOW_MS)
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Confirm").click()
    expect(state(page, "Cancelled")).to_be_visible(timeout=SLOW_MS)


@pytest.mark.long
def test_a_retraining_beside_a_champion_shows_which_half_became_better(
    page: Page, retrained: None, stack: Stack, card: Path
) -> None:
    """Whether the gate lets the new pair pass or not, the matrix is there before."""
    settings = {
        "card": str(card),
        "recipe": "tiny",
        "changes": {"structure_steps": 9},
        "evaluation": {"matrix": True},
        "deploy": False,
    }
    with prefect_api(stack) as api:
        run = press(api, "retrain-pair", settings).raise_for_status().json()
        assert finish(api, run["id"], timeout_s=RUN_MS / 1000)["type"] in ("COMPLETED", "FAILED")
    open_newest(page, stack, "pair-matrix")
    expect(page.get_by_role("heading", name="Pair matrix")).to_be_visible()
    expect(page.locator("table tbody tr")).to_have_count(4)
    keep(page, "prefect_pair_matrix")


@pytest.mark.long
def test_mlflow_shows_the_registered_pair_with_its_alias(page: Page, stack: Stack, retrained: None) -> None:
    page.goto(f"{stack.mlflow_url}/#/models/pangu-pair")
    expect(page.get_by_text("Version 1").first).to_be_visible()
    expect(page.get_by_text("champion").first).to_be_visible()
    page.get_by_role("button", name="Close", exact=True).click()  # the assistant, which opens by itself
    page.goto(f"{stack.mlflow_url}/#/models/pangu-pair/versions/1")
    expect(page.get_by_text("pangu.boundary").first).to_be_visible()
    samples = page.locator("img[src*='samples.png']").first
    samples.scroll_into_view_if_needed()
    assert samples.evaluate("async (image) => (await image.decode(), image.naturalWidth)") > 0
    keep(page, "mlflow_pair")


@pytest.mark.long
def test_rays_dashboard_asks_for_the_token_and_then_shows_the_jobs(page: Page, stack: Stack, retrained: None) -> None:
    page.goto(f"{stack.ray_dashboard_url}/#/jobs")
    page.get_by_label("Authentication Token", exact=True).fill(stack.token)
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text(re.compile("pangu train")).first).to_be_visible()
    keep(page, "ray_jobs")
