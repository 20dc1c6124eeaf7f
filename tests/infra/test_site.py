"""The documentation site as `make docs` builds it: strict, whole, and without a request to anybody."""

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from infra.site import flowchart, notebook_page
from infra.site.check import faults
from infra.site.repository import relink, spaced
from tests import subtests

ROOT = Path(__file__).parents[2]
CHROMIUM = "/usr/bin/chromium"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git would give, and the site's packages where they are installed already."""
    folder: Path = tmp_path_factory.mktemp("source")
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    for file in files:
        if (ROOT / file).is_file() and not file.startswith("benchmarks/"):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, folder / file)
    if (ROOT / ".venv-docs").is_dir():
        (folder / ".venv-docs").symlink_to(ROOT / ".venv-docs")
    return folder


def make(target: str, source: Path, **environment: str) -> None:
    """A target as people call it, with the Python of this process."""
    command = ["make", target, f"BIN={Path(sys.executable).parent}", "--assume-old=.venv/.installed"]
    variables = {**os.environ, "PYTHONPATH": str(source), **environment}
    made = subprocess.run(command, cwd=source, env=variables, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr


@pytest.mark.long
def test_the_notebooks_run_without_a_gpu_and_show_what_they_say(source: Path) -> None:
    """As a reader without a GPU runs them; the pair that is trained there is shown better than what it began with."""
    before = {path.name: path.read_text() for path in source.glob("notebooks/*.ipynb")}
    make("notebooks", source, CUDA_VISIBLE_DEVICES="")
    for name, earlier in before.items():
        cells = json.loads((source / "notebooks" / name).read_text())["cells"]
        assert [cell["source"] for cell in cells] == [cell["source"] for cell in json.loads(earlier)["cells"]]
        pictures = [
            output for cell in cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
        ]
        assert len(pictures) >= 1
    judged = (source / "notebooks/judge_a_pair.ipynb").read_text()
    assert re.search(r"retrieval_top1_en +\+0\.\d+  \[\+0\..* better", judged)


@pytest.mark.long
def test_the_site_is_built_strictly_and_searched_in_both_languages_without_a_network(source: Path) -> None:
    """By the target that people use; opened from the disk, and from a server."""
    make("docs", source)
    site = source / "var/site/html"
    assert len(list(site.rglob("*.html"))) > 50

    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM)
            for address in (f"file://{site}", f"http://127.0.0.1:{server.server_port}"):
                page = browser.new_page()
                asked: list[str] = []
                broken: list[str] = []
                page.on("request", lambda request, asked=asked: asked.append(request.url))
                page.on("pageerror", lambda error, broken=broken: broken.append(str(error)))
                for query, place in (
                    ("guidance", ".html"),
                    ("边界", "tutorial_zh.html"),
                    ("结构生成器", "tutorial_zh.html"),
                ):
                    page.goto(f"{address}/index.html")
                    while not page.evaluate("document.activeElement.name === 'query'"):
                        page.keyboard.press("s")  # until the page listens
                        page.wait_for_timeout(100)
                    page.keyboard.insert_text(query)
                    page.wait_for_timeout(200)
                    page.keyboard.press("End")  # as a key of an input method does
                    first = page.locator(f'.md-search-result__link[href*="{place}"]').first
                    first.wait_for(state="attached", timeout=60_000)
                page.close()
                assert not broken
                assert not [url for url in asked if not url.startswith((address, "data:", "blob:", "about:"))]
            browser.close()
    finally:
        server.shutdown()


PAGE = '<html><body><h1 id="top">x</h1>{}</body></html>'


@subtests.parametrize(
    ("inside", "fault"),
    [
        ('<a href="other.html#top">', ""),
        ('<a href="other.html#gone">', "whose anchor is not there"),
        ('<a href="gone.html">', "which is not there"),
        ('<script src="https://example.org/x.js">', "loads https://example.org/x.js from elsewhere"),
        ('<img src="gone.png">', "which is not there"),
        ('<a href="https://example.org/">', ""),
    ],
    ids=["sound", "anchor", "page", "script", "picture", "outside"],
)
def test_the_check_finds_what_is_wrong_with_a_page(tmp_path: Path, inside: str, fault: str) -> None:
    (tmp_path / "index.html").write_text(PAGE.format(inside))
    (tmp_path / "other.html").write_text(PAGE.format(""))
    found = faults(tmp_path)
    assert [fault in each for each in found] == ([True] if fault else [])


def test_links_lead_to_pages_lists_get_their_line_and_charts_and_notebooks_are_drawn() -> None:
    lost: list[str] = []
    text = "[a](docs/coop.md#partners) ![b](docs/studio.png) [c](prefect.yaml) [d](pangu/errors.py)\n```\n[e](gone.md)\n```"
    linked = relink(text, "README.md", "index.md", lost.append)
    assert "(coop.md#partners)" in linked and "(studio.png)" in linked and "(files/prefect.yaml.md)" in linked
    assert lost == ["pangu/errors.py"] and "[e](gone.md)" in linked
    assert relink("[x](../README.md)", "docs/coop.md", "coop.md", lost.append) == "[x](index.md)"
    assert spaced("In short:\n- a\n- b\n| c |") == "In short:\n\n- a\n- b\n| c |"

    chart = "flowchart LR\n  a[first<br><i>said</i>] --> b[(t &lt; 500)]\n  a --> c"
    drawn = flowchart.draw(chart)
    assert drawn.count("<rect") == 3 and drawn.count("pangu-chart-arrow") == 2 and "t &lt; 500" in drawn
    for wrong in ("sequenceDiagram\n a->>b: x", "flowchart LR\n a -.-> b", "flowchart LR\n a --> b\n b --> a"):
        with pytest.raises(ValueError, match=r"kind|no arrow|circle"):
            flowchart.draw(wrong)

    outputs = [{"data": {"image/png": "iVBO\n"}}, {"text": ["x"]}]
    page = notebook_page.markdown(json.dumps({"cells": [{"cell_type": "code", "source": ["1"], "outputs": outputs}]}))
    assert 'src="data:image/png;base64,iVBO"' in page and "```text\nx\n```" in page
