"""What computes needs torch, diffusers, transformers, safetensors and pydantic alone: it also runs where the platform is not."""

import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENOUGH = ("torch", "diffusers", "transformers", "safetensors", "pydantic")
COMPUTING = (
    "pangu.sampling.sampling_step", "pangu.models.denoisers", "pangu.models.text", "pangu.models.autoencoders",
    "pangu.models.lora",
    "pangu.models.compiled", "pangu.models.captured", "pangu.pipelines.pangu_draw", "pangu.pipelines.coop", "pangu.train.step",
    "pangu.train.loop",
)  # fmt: skip
AT_WORK = """
import torch
from pathlib import Path
from pangu.data.rows.in_memory import EncodedRows
from pangu.pipelines.assemble import untrained_pair
from pangu.pipelines.coop import CoopPipeline
from pangu.recipes import tiny
from pangu.train.loop import train_loop

recipe = tiny()
jobs = {role: job.model_copy(update={"steps": 2, "batch_size": 2}) for role, job in recipe.jobs.items()}
recipe = recipe.model_copy(update={"jobs": jobs})
unit = lambda *shape: torch.randn(*shape).half()
rows = EncodedRows(
    ("a", "b"), unit(2, 4, 4, 4), unit(2, 2, 6, 8), unit(2, 2, 8), torch.zeros(2, dtype=torch.int64),
    torch.zeros(2, dtype=torch.int64), unit(6, 8), unit(8),
)
print(train_loop("structure", recipe, rows, "e", Path("checkpoints")).steps)
pair = untrained_pair(recipe, 0)
print(pair("fox", num_inference_steps=2).images[0].size == CoopPipeline(pair)("fox", num_inference_steps=2).images[0].size)
"""


def needed(names: tuple[str, ...]) -> set[str]:
    """These distributions and whatever they ask for, extras left out."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            asked = distribution(name).requires or []
        except PackageNotFoundError:
            continue  # for another platform
        found.add(name)
        waiting += [re.split(r"[^\w.-]", each, maxsplit=1)[0] for each in asked if "extra ==" not in each]
    return found


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to import from that has those packages and no other."""
    folder: Path = tmp_path_factory.mktemp("bare")
    for name in needed(ENOUGH):
        here = distribution(name)
        for part in {
            Path(file).parts[0] for file in here.files or [] if Path(file).parts[0] not in ("..", "__pycache__")
        }:
            if not (folder / part).exists():
                (folder / part).symlink_to(str(here.locate_file(part)))
    return folder


def run(code: str, bare: Path, folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PANGU"))}
    environment |= {"PYTHONPATH": f"{bare}:{ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
def test_what_computes_trains_and_draws_where_nothing_else_is_installed(bare: Path, tmp_path: Path) -> None:
    for missing in ("pyarrow", "deltalake", "ray", "mlflow", "prefect", "img2dataset", "peft"):
        assert not (bare / missing).exists()
    everything = "".join(f"import {module}\n" for module in COMPUTING)
    assert run(everything + AT_WORK, bare, tmp_path).split() == ["2", "True"]
