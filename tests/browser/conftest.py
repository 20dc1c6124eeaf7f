"""A real browser, and a served pair for it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser import CHROMIUM


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A `LocalServer` of a tiny pair that knows two styles, with partners: one under a ControlNet, one that varies an image."""
    # Here, so that the tests of the dashboards start without networks.
    from pangu.recipes import tiny
    from tests.pipelines.coop import small
    from tests.serve.local import serving
    from tests.serve.served_pair import write_pair

    folder: Path = tmp_path_factory.mktemp("studio")
    recipe = tiny().model_copy(update={"styles": {"photo": "a photo of", "cartoon": "cartoon style,"}})
    pair = write_pair(folder, recipe, seed=0)[0]
    pipe = small.stable_diffusion(seed=3)
    pipe.save_pretrained(folder / "plain")
    small.controlnet(pipe.unet).save_pretrained(folder / "edges")
    partner: dict[str, Any] = {"source": str(folder / "plain"), "controlnets": [str(folder / "edges")]}
    small.image_variation(seed=3).save_pretrained(folder / "variation")
    like = {"source": str(folder / "variation"), "varies_image": True}
    with serving(pair, coop={"partners": {"edges": partner, "like": like}}) as running:
        yield running
