"""The wheel: what lies in it, and that it draws and serves in an environment that has it and what the core asks for."""

import base64
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

import pangu
from pangu.stack.ports import free_port

ROOT = Path(__file__).parents[2]
MOST_PACKAGES, MOST_BYTES, FIRST_PICTURE_S = 40, 300e6, 60.0
"""Beside PanGu and what torch brings; of the files of their wheels and PanGu's; from the end of the installation."""
MOST_WHEEL_BYTES = 18e6


def build_wheel(source: Path, folder: Path) -> Path:
    """A wheel of a copy of `source`, so that nothing is left in it; with what is installed, for the network has no part in it."""
    copy = folder / "source"
    shutil.copytree(source / "pangu", copy / "pangu", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(source / name, copy / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, copy]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("pangu-*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


def left_out(wheel: Path) -> set[str]:
    """Files of the package in version control that the wheel lacks."""
    listed = subprocess.run(["git", "ls-files", "pangu"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    with zipfile.ZipFile(wheel) as packed:
        return set(listed.splitlines()) - set(packed.namelist())


@pytest.mark.long
def test_the_wheel_holds_every_file_of_the_package_and_nothing_beside_it(wheel: Path, tmp_path: Path) -> None:
    assert left_out(wheel) <= {"pangu/assets/README.md"}
    assert wheel.name == f"pangu-{pangu.__version__}-py3-none-any.whl" and wheel.stat().st_size < MOST_WHEEL_BYTES
    with zipfile.ZipFile(wheel) as packed:
        tops = {name.partition("/")[0] for name in packed.namelist()}
    assert tops == {"pangu", f"pangu-{pangu.__version__}.dist-info"}
    # A tree that has lost its weights and pages makes a wheel, too: so it is looked at here.
    torn = tmp_path / "torn"
    shutil.copytree(
        ROOT / "pangu", torn / "pangu", ignore=shutil.ignore_patterns("__pycache__", "static", "*.safetensors")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, torn / name)
    lost = left_out(build_wheel(torn, tmp_path))
    assert "pangu/serve/static/index.html" in lost and any(name.endswith(".safetensors") for name in lost)


TYPED = """
from pangu import Card, CoopPipeline, PanGuDrawPipeline, Recipe, evaluate, train
reveal_type(Card)
reveal_type(CoopPipeline)
reveal_type(PanGuDrawPipeline)
reveal_type(Recipe)
reveal_type(evaluate)
reveal_type(train)
train("nobody's role")
"""


@pytest.mark.long
def test_a_type_checker_believes_the_types_of_the_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv")
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(packages)
    (tmp_path / "typed.py").write_text(TYPED)
    python = tmp_path / "venv/bin/python"
    command = [sys.executable, "-m", "mypy", "--no-incremental", "--python-executable", python, "typed.py"]

    def told() -> str:
        here = {"PATH": os.environ["PATH"]}  # without PYTHONPATH, by which it would find the checkout
        return subprocess.run(command, cwd=tmp_path, env=here, capture_output=True, text=True).stdout

    lines = told().splitlines()
    revealed = [line.split('Revealed type is "')[1].rstrip('"') for line in lines if "Revealed type" in line]
    assert len(revealed) == 6 and all(kind.startswith("def (") for kind in revealed)
    returned = ("Card", "CoopPipeline", "PanGuDrawPipeline", "Recipe", "EvaluateOutcome", "TrainOutcome")
    for kind, named in zip(revealed, returned, strict=True):
        assert named in kind.rpartition("->")[2], kind
    assert [line for line in lines if "incompatible type" in line and "typed.py:9" in line]
    (packages / "pangu/py.typed").unlink()
    assert 'Revealed type is "Any"' in told()


INSTALLED = """
import json
from importlib.metadata import distributions
found = {}
for one in distributions():
    places = [one.locate_file(file) for file in one.files or () if not str(file).endswith(".pyc")]
    found[one.name] = sum(place.stat().st_size for place in places if place.is_file())
print(json.dumps(found))
"""
DRAWN = """
from pangu import PanGuDrawPipeline, CoopPipeline, Card, Recipe
from pangu.starter.pair import starter_pair
pair = starter_pair()
print(pair("fox", num_inference_steps=4).images[0].size, CoopPipeline(pair)("fox", num_inference_steps=4).images[0].size)
"""


@pytest.mark.long
def test_the_core_draws_and_serves_where_only_the_wheel_is_installed(wheel: Path, tmp_path: Path) -> None:
    """Measured on two cores: 40 packages and 232 MB; the first picture 13 s after the installation."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PANGU_HOME": str(tmp_path / "home")}
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=True)
    python, command = folder / "bin/python", folder / "bin/pangu"

    def run(*arguments: object, status: int = 0) -> str:
        done = subprocess.run([*map(str, arguments)], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    def installed() -> dict[str, int]:
        return dict(json.loads(run(python, "-c", INSTALLED)))

    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "-c", ROOT / "constraints.txt", "torch==2.13.0")
    torch_brings = set(installed())
    run(*pip, "-c", ROOT / "constraints.txt", wheel)
    ended = time.monotonic()

    port = free_port()
    with answering([str(command), "serve", "--port", str(port)], environment, tmp_path):
        picture = first_picture(f"http://127.0.0.1:{port}", ended + FIRST_PICTURE_S)
        seconds = time.monotonic() - ended
        assert picture.size == (96, 96) and seconds < FIRST_PICTURE_S
        served(f"http://127.0.0.1:{port}")

    core = {name: size for name, size in installed().items() if name not in torch_brings}
    print(f"{len(core) - 1} packages, {sum(core.values()) / 1e6:.0f} MB, first picture after {seconds:.0f} s")
    assert len(core.keys() - {"pangu"}) <= MOST_PACKAGES and sum(core.values()) <= MOST_BYTES
    assert "(96, 96) (96, 96)" in run(python, "-W", "ignore", "-c", DRAWN)
    assert run(command, "--version") == f"pangu {pangu.__version__}\n" and "ingest" in run(command, "--help")
    assert run(command, "ingest", "openmoji", status=2).endswith('pip install "pangu[data]"\n')
    # The command in the sentence finds the package that is there and what to bring; pip says which extras there are not.
    assert "Would install accelerate" in run(*pip[:4], "--dry-run", "pangu[adapters]")
    assert "does not provide the extra 'nonsense'" in run(*pip[:4], "--dry-run", "pangu[nonsense]")


@contextmanager
def answering(command: list[str], environment: dict[str, str], folder: Path) -> Iterator[None]:
    """A server that runs meanwhile."""
    with subprocess.Popen(command, cwd=folder, env=environment | {"OMP_NUM_THREADS": "1"}) as server:
        try:
            yield
        finally:
            server.send_signal(signal.SIGINT)


def first_picture(url: str, until: float) -> Image.Image:
    """Of a server that may still be starting; until: of the monotonic clock."""
    asked = json.dumps({"model": "pangu-pair", "prompt": "fox"}).encode()
    request = urllib.request.Request(f"{url}/v1/images/generations", asked, {"content-type": "application/json"})
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                data = json.load(answer)["data"][0]["b64_json"]
            return Image.open(io.BytesIO(base64.b64decode(data)))
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def served(url: str) -> None:
    """The pages are there, and what the core leaves out says so."""
    for path in ("studio", "studio/studio.js", "docs", "docs/docs.js", "openapi.json"):
        with urllib.request.urlopen(f"{url}/{path}") as answer:
            assert answer.status == 200 and answer.read()
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{url}/metrics")
    assert caught.value.code == 501 and "pangu[platform]" in json.load(caught.value)["error"]["message"]
