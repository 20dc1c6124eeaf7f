"""The worked examples of docs/coop.md run as they are written, on small local models in the place of hub weights."""

import re
from dataclasses import fields
from pathlib import Path

import typer
from PIL import Image
from typer.core import TyperGroup as Group

from pangu.cli import coop, starter, training
from pangu.pipelines.coop import Partner
from pangu.pipelines.coop.adapters import ADAPTERS
from tests import subtests
from tests.pipelines.coop import small

DOCUMENT = Path(__file__).parents[3] / "docs/coop.md"
PREAMBLE = "from pangu.pipelines import CoopPipeline, Handoff, Partner\nfrom PIL import Image\n"
MODELS = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": lambda: small.stable_diffusion(),
    "lambdalabs/sd-image-variations-diffusers": lambda: small.image_variation(1),
    "stabilityai/stable-diffusion-xl-base-1.0": lambda: small.sdxl(),
    "lllyasviel/control_v11p_sd15_openpose": lambda: small.controlnet(small.unet()),
    "lllyasviel/control_v11p_sd15_canny": lambda: small.controlnet(small.unet()),
    "style-model": lambda: small.stable_diffusion(2),
}


def examples() -> list[str]:
    worked = DOCUMENT.read_text().split("## Worked examples")[1].split("## What it does not do")[0]
    return re.findall(r"```python\n(.*?)```", worked, re.DOTALL)


@subtests.parametrize("place", range(4))
def test_an_example_draws_its_picture(place, pair, tmp_path, monkeypatch) -> None:
    code = examples()[place]
    sides = {"1024": "96", "512": "48"} if "pair-folder" in code else {"1024": "32", "512": "16"}
    for name, build in MODELS.items():
        if f'"{name}"' in code:
            folder = tmp_path / name.replace("/", "--")
            build().save_pretrained(folder)
            code = code.replace(f'"{name}"', f'"{folder}"')
    if "pair-folder" in code:
        pair.save_pretrained(tmp_path / "pair-folder")
        code = code.replace('"pair-folder"', f'"{tmp_path / "pair-folder"}"')
    for large, little in sides.items():
        code = code.replace(large, little)
    for name in re.findall(r'Image.open\("(.*?)"\)', code):
        Image.new("RGB", (16, 16), "gray").save(tmp_path / name)
    code = re.sub(r'^coop\("', 'coop(num_inference_steps=2, prompt="', code, flags=re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    exec(compile(PREAMBLE + code, str(DOCUMENT), "exec"), {})
    (drawn,) = re.findall(r'\.save\("(.*?)"\)', code)
    side = (
        int(sides["512"])
        if "height=48" in code or ("height=16" in code and "height=32" not in code)
        else int(sides["1024"])
    )
    assert Image.open(tmp_path / drawn).size == (side, side)


def test_every_example_is_run_and_every_field_is_explained() -> None:
    assert len(examples()) == 4
    table = DOCUMENT.read_text().split("## Partners")[1].split("## Families")[0]
    missing = [entry.name for entry in fields(Partner) if f"`{entry.name}`" not in table]
    assert set(missing) == {"source", "name"}


def test_every_family_is_named() -> None:
    text = DOCUMENT.read_text().split("## Families")[1].split("## What it costs")[0]
    controlled = ("StableDiffusionControlNetPipeline", "StableDiffusionXLControlNetPipeline")
    assert not [
        cls.__name__ for cls in ADAPTERS if cls.__name__ not in (*controlled,) and f"`{cls.__name__}`" not in text
    ]


def test_every_option_of_the_commands_exists() -> None:
    app = typer.Typer()
    for part in (training, starter, coop):
        part.register(app)
    commands = typer.main.get_command(app)
    assert isinstance(commands, Group)
    blocks = re.findall(r"```\n(pangu .*?)```", DOCUMENT.read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("pangu ")]
    assert len(lines) >= 9
    for line in lines:
        words = line.split(">")[0].split()[1:]
        command = commands.commands[words[0]]
        if isinstance(command, Group):
            command = command.commands[words[1]]
        known = {name for parameter in command.params for name in parameter.opts}
        assert not {word for word in words if word.startswith("--")} - known, line
