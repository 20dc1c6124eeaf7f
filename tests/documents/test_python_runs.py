"""The Python of the documents runs as it is written, page by page and from top to bottom, each in one namespace."""

import re
from pathlib import Path

import pytest
from PIL import Image

from tests import subtests
from tests.documents.blocks import blocks_of, every
from tests.documents.installed import install
from tests.documents.pages import PREPARED, Reader

pytestmark = pytest.mark.long
PAGES = sorted({block.document for block in every("python")})
SERVED = ("README.md", "docs/serving.md")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pangu.recipes import tiny
    from tests.serve.served_pair import write_pair

    return write_pair(tmp_path_factory.mktemp("pair"), tiny(), seed=0)[0]


@pytest.fixture(scope="module")
def url(pair: Path):
    from tests.serve.local import serving

    with serving(pair, max_in_flight=8) as server:
        yield server.url


@pytest.fixture(scope="module")
def champion(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A registry in a file, whose champion is the pair; its address."""
    from pangu.registry import release

    folder = tmp_path_factory.mktemp("registry")
    address = f"sqlite:///{folder}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", address)
        patch.chdir(folder)
        halves = pair.parent / "structure", pair.parent / "texture"
        facts = {"pair_id": "0", "pair": str(pair), "metrics": {}, "protocol": "none", "protocol_hash": "0"}
        release(pair, *halves, facts)
    return address


def dataset_of(home: Path) -> None:
    """`var/datasets/openmoji` of a working folder, as `pangu prepare` leaves it."""
    from pangu.storage import Home
    from tests.small_dataset import commit_rows, row, selection

    commit_rows(Home(home / "var"), [row(one, False) for one in selection(4)], name="openmoji")


@subtests.parametrize("document", PAGES)
def test_a_page_of_python_runs_from_top_to_bottom(
    document: str, pair: Path, url: str, champion: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader(tmp_path, pair, url if document in SERVED else "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PANGU_HOME", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", champion)
    picture = Image.new("RGB", (16, 16), "gray")
    namespace = {"edges": picture, "images": [picture]} | PREPARED.get(document, lambda _: {})(reader)
    install(document, tmp_path, monkeypatch)
    if document == "docs/datasets.md":
        dataset_of(tmp_path)
    ran = 0
    for block in blocks_of(document):
        if block.language == "python" and not block.reason:
            exec(compile(reader.typed(block.text), block.place, "exec"), namespace)
            ran += 1
    saved = re.findall(r'\.save\("(.*?)"\)', "".join(b.text for b in blocks_of(document) if b.language == "python"))
    assert ran or all(block.reason for block in blocks_of(document) if block.language == "python")
    assert not [name for name in saved if not (tmp_path / name).exists()]
