"""diffusers' own classes open a pair folder in a process that imports nothing of ours, as an installed package makes it known."""

import os
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import torch

from pangu.exchange.pipeline_file import PIPELINE_FILE, pipeline_file
from pangu.pipelines.assemble import save_pair, untrained_pair
from pangu.recipes import tiny

ROOT = Path(__file__).parents[2]
PACKAGES = Path(diffusers.__file__).parents[1]
METADATA = [sys.executable, "-c", "from setuptools import setup; setup()", "-q", "egg_info", "-e"]
OPEN = """
import sys
from diffusers import DiffusionPipeline
assert not any(name.startswith("pangu.pipelines.pangu_draw") for name in sys.modules), "before anybody asked"
folder, saved = sys.argv[1:]
opened = DiffusionPipeline.from_pretrained(folder, use_safetensors=True)
opened.save_pretrained(saved)
from diffusers import AutoPipelineForText2Image
auto = AutoPipelineForText2Image.from_pretrained(saved, use_safetensors=True)
again = [opened, auto, DiffusionPipeline.from_pretrained(folder, custom_pipeline="pipeline", trust_remote_code=True)]
again += [AutoPipelineForText2Image.from_pipe(opened), type(opened).from_pipe(auto)]
import torch
assert {type(pipe).__name__ for pipe in again} == {"PanGuDrawPipeline"}
for pipe in again:
    pipe.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(0)
    torch.save(pipe("fox", num_inference_steps=2, generator=noise, output_type="pt").images, f"{saved}/{again.index(pipe)}")
"""
TRUST = """
import sys
sys.path.append(sys.argv[2])
from diffusers import DiffusionPipeline
DiffusionPipeline.from_pretrained(sys.argv[1], custom_pipeline="pipeline", trust_remote_code=True)
"""


def python(code: str, *arguments: Path, flags: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess:
    known = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PANGU"))}
    cache = {"HF_MODULES_CACHE": str(arguments[0].parent / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *flags, "-c", code, *map(str, arguments)]
    return subprocess.run(
        command, cwd=arguments[0].parent, env=known | cache | environment, capture_output=True, text=True
    )


@pytest.mark.long
@pytest.mark.slow
def test_a_pair_folder_opens_by_itself_where_the_package_is_installed_and_says_what_to_install_elsewhere(
    tmp_path,
) -> None:
    pair, saved, metadata = tmp_path / "pair", tmp_path / "saved", tmp_path / "metadata"
    made = untrained_pair(tiny(), 0)
    save_pair(made, pair)
    (pair / PIPELINE_FILE).write_text(pipeline_file(pair))
    metadata.mkdir()
    subprocess.run([*METADATA, str(metadata)], cwd=ROOT, check=True, capture_output=True)
    done = python(OPEN, pair, saved, PYTHONPATH=f"{metadata}:{ROOT}")
    assert done.returncode == 0, done.stderr
    made.set_progress_bar_config(disable=True)
    expected = made("fox", num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="pt").images
    assert all(torch.equal(torch.load(saved / str(number)), expected) for number in range(5))
    for file in pair.rglob("*.safetensors"):
        assert (saved / file.relative_to(pair)).read_bytes() == file.read_bytes()
    # -S: no .pth files, so nothing that is installed to be edited.
    told = python(TRUST, pair, PACKAGES, flags=("-S",), TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    assert told.returncode != 0 and "ImportError: This pair is drawn by PanGu 0.1.0 or later" in told.stderr, (
        told.stderr
    )
    assert "Run `pip install" not in told.stderr, "what the index has under this name is another package"
