"""The examples of docs/serving.md run as they are written, against a real server."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pangu.serve.api.keys import parse_keys
from pangu.serve.api.requests import ImageRequest
from pangu.serve.settings import ServeSettings
from tests import subtests
from tests.serve.local import LocalServer

DOCUMENT = (Path(__file__).parents[2] / "docs/serving.md").read_text()
EXAMPLES = re.findall(r"```(python|sh|json)\n(.*?)```", DOCUMENT, re.DOTALL)


def written(language: str) -> list[str]:
    return [text for kind, text in EXAMPLES if kind == language]


@subtests.parametrize("place", range(4))
def test_a_python_example_runs(local: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    code = (
        written("python")[place].replace("http://127.0.0.1:8000", local.url).replace("PAIR_FOLDER", str(local.folder))
    )
    code = code.replace("steps=20", "steps=4").replace('steps": 20', 'steps": 4')
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/serving.md", "exec"), {})
    assert place == 0 or list(tmp_path.glob("*.png"))


def test_the_curl_example_runs(local: LocalServer, tmp_path: Path) -> None:
    assert shutil.which("curl")
    code = written("sh")[0].replace("http://127.0.0.1:8000", local.url)
    subprocess.run(["bash", "-euc", code], cwd=tmp_path, check=True)
    assert json.loads((tmp_path / "fox.json").read_text())["scheduler"] == "EulerDiscreteScheduler"


def test_the_settings_and_the_keys_are_valid() -> None:
    variations, enhance, names, batches, settings, loras, keys = written("json")
    assert ServeSettings.model_validate_json(variations).coop.variations == "like"
    assert ServeSettings.model_validate_json(batches).batches is not None
    assert ServeSettings.model_validate_json(names).nearest_size
    assert ServeSettings.model_validate_json(settings).coop.partners["edges"].takes_image
    assert ServeSettings.model_validate_json(loras).loras["fine"].drop_text_encoder
    assert ServeSettings.model_validate_json(enhance).enhance is not None
    assert [key.name for key in parse_keys(keys, "docs/serving.md")] == ["lab", "page"]


def test_every_extension_is_explained() -> None:
    extensions = {
        name for name, field in ImageRequest.model_fields.items() if (field.description or "").startswith("Extension")
    }
    assert extensions
    assert not {name for name in extensions if f"`{name}`" not in DOCUMENT}
