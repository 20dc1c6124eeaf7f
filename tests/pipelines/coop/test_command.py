"""`pangu coop` from folders to pictures."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer import Typer
from typer.testing import CliRunner

from pangu.cli import coop as command
from pangu.errors import UserError
from tests.pipelines.coop import small


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    small.stable_diffusion().save_pretrained(root / "main")
    base = small.stable_diffusion(1, vae=small.vae(4))
    base.save_pretrained(root / "old")
    small.controlnet(base.unet).save_pretrained(root / "edges")
    Image.new("L", (16, 16), 255).save(root / "edges.png")
    return root


def run(*arguments: str):
    app = Typer()
    command.register(app)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_pictures_come_out_and_the_plan_is_reported(folders, tmp_path) -> None:
    outcome = tmp_path / "outcome.json"
    ran = run(
        "--main", folders / "main", "--partner", folders / "old", "--controlnet", folders / "edges", "--image",
        folders / "edges.png", "--prompt", "a fox", "--strength", "0.4", "--steps", "2", "--height", "16", "--width", "16",
        "--count", "2", "--seed", "7", "--folder", tmp_path / "pictures", "--result", outcome,
    )  # fmt: skip
    assert ran.exit_code == 0, ran.output
    report = json.loads(outcome.read_text())
    assert report["network_calls"] == {"main": 2, "partner": 2}
    assert [Path(name).name for name in report["images"]] == ["7.png", "8.png"]
    assert all(Image.open(name).size == (16, 16) for name in report["images"])


def test_options_that_do_not_match_the_partners(folders) -> None:
    ran = run("--main", folders / "main", "--partner", "a", "--partner", "b", *["--strength", "0.1"] * 3)
    assert isinstance(ran.exception, UserError)
    assert str(ran.exception) == "--strength is given 3 times for 2 partners; give it once, or once each."
    ran = run("--main", folders / "main", "--partner", "a", "--image", folders / "main/model_index.json")
    assert "is no picture that can be read" in str(ran.exception)


def test_a_partner_of_another_size_is_steered_by_the_edges_of_a_picture(folders, tmp_path) -> None:
    square = Image.new("RGB", (8, 8), "white")
    square.paste((0, 0, 0), (2, 2, 6, 6))
    square.save(tmp_path / "square.png")
    common = (
        "--main", folders / "main", "--partner", folders / "old", "--controlnet", folders / "edges", "--image",
        tmp_path / "square.png", "--partner-side", "8", "--steps", "2", "--height", "16", "--width", "16", "--strength", "1",
    )  # fmt: skip
    drawn = []
    for flags in ((), ("--edges",)):
        folder = tmp_path / f"pictures{len(flags)}"
        assert run(*common, *flags, "--folder", folder).exit_code == 0
        drawn.append(Image.open(folder / "0.png").tobytes())
    assert drawn[0] != drawn[1]
