"""What a release is made of says one thing: one version everywhere, a citation that readers of CFF accept, a site that has every
page, notebooks that were run."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

import pangu
from infra.site.reference import PACKAGES
from infra.site.repository import OUTSIDE_DOCS, SHOWN
from tests import subtests

checks = subtests.Checks()

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LARGEST_NOTEBOOK = 600_000


@checks
def one_version_stands_everywhere_and_the_changes_begin_with_it() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert pangu.__version__ == citation["version"] and "version" in PROJECT["dynamic"]
    first = re.search(
        r"^## \[(.+?)\] - (Unreleased|\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert first and first[1] == pangu.__version__ and re.fullmatch(r"\d+\.\d+\.\d+", first[1])


@checks
def the_citation_has_what_the_format_demands_and_names_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys() and citation["cff-version"] == "1.2.0"
    assert citation["license"] == PROJECT["license"] and citation["type"] in ("software", "dataset")
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= paper.keys() and paper["identifiers"][0]["value"] == "arXiv:2312.16486"


@checks
def every_place_that_the_security_page_names_is_there() -> None:
    named = re.findall(r"`(tests/[\w/.]+)`", (ROOT / "SECURITY.md").read_text())
    assert named and not [place for place in named if not (ROOT / place).exists()]


class _Loader(yaml.SafeLoader):
    """YAML in which Python's own tags stand for nothing."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)  # type: ignore[no-untyped-call]


@checks
def every_document_stands_in_the_sites_contents() -> None:
    contents = yaml.load((ROOT / "mkdocs.yml").read_text(), _Loader)["nav"]
    listed = set(_places(contents))
    documents = {path.name for path in ROOT.glob("docs/*.md")} | set(OUTSIDE_DOCS.values())
    notebooks = {f"notebooks/{path.stem}.md" for path in ROOT.glob("notebooks/*.ipynb")}
    generated = {f"reference/python/{name}.md" for name in PACKAGES} | {f"files/{path}.md" for path in SHOWN}
    assert not (documents | notebooks | generated) - listed


def _places(contents: Any) -> list[str]:
    if isinstance(contents, str):
        return [contents]
    inner = contents.values() if isinstance(contents, dict) else contents
    return [place for each in inner for place in _places(each)]


def test_the_sites_packages_are_pinned_beside_those_of_the_platform() -> None:
    def pins(file: str) -> dict[str, str]:
        found = re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / file).read_text(), re.MULTILINE)
        return {name.lower().replace("_", "-"): version for name, version in found}

    own = pins("infra/site/requirements.txt")
    lines = [
        line for line in (ROOT / "infra/site/requirements.txt").read_text().splitlines() if line[:1] not in ("#", "")
    ]
    assert len(own) == len(lines)
    assert not own.keys() & pins("constraints.txt").keys()


def test_notebooks_are_stored_as_they_ran_small_and_without_what_changes_by_itself() -> None:
    paths = sorted(ROOT.glob("notebooks/*.ipynb"))
    assert len(paths) == 3
    for path in paths:
        assert path.stat().st_size <= LARGEST_NOTEBOOK, path
        cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
        assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)], path
        outputs = [output for cell in cells for output in cell["outputs"]]
        assert any("image/png" in output.get("data", {}) for output in outputs), path
        assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
        printed = "".join("".join(output.get("text", "")) for output in outputs)
        assert not re.search(r"/(tmp|work|root|home)/", printed), path


test_release_papers = checks.test()
