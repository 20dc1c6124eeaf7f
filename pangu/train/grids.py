"""Sample grids of the pair while it trains: this run's running mean beside the newest of the other run.

Captions, languages and noise are the same at every step and for both runs. Draws from sources of its own, so training does not
notice. Knows nothing of MLflow.
"""

import hashlib
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from pangu.contract import GeneratorContract
from pangu.data.batches import EMPTY, LANGUAGES, Rows
from pangu.diffusion.trajectory import Conditioning
from pangu.models.autoencoders import load_autoencoder
from pangu.models.schedulers import sampler
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.storage import write_atomically
from pangu.train.job import TrainJob, captions_of, other_run
from pangu.train.partner import newest_partner

FOLDER = "samples"
GAP = 4

log = logging.getLogger(__name__)


def chosen_rows(rows: Rows, count: int, seed: int) -> list[int]:
    """Rows whose captions are drawn: by a hash of their keys, originals first, so that both runs choose the same."""

    def order(row: int) -> tuple[bool, str]:
        digest = hashlib.sha256(f"{seed}/{rows.keys[row]}".encode()).hexdigest()
        return int(rows.min_timestep_n[row]) > 0, digest

    return sorted(range(len(rows.keys)), key=order)[:count]


class Grids:
    """Draws `samples/step-NNNNNN.png` in the run folder; every other caption is Chinese.

    told: is called with the path of each grid.
    """

    def __init__(self, job: TrainJob, rows: Rows, contract: GeneratorContract, told: Callable[[Path], None]) -> None:
        self._job, self._contract, self._told = job, contract, told
        self._chosen = chosen_rows(rows, job.recipe.watching.samples, job.recipe.seed)
        languages = [index % len(LANGUAGES) for index in range(len(self._chosen))]
        tokens, pooled = rows.captions(self._chosen, languages)
        empty = rows.captions(self._chosen, [EMPTY] * len(self._chosen))
        self._conditioning = Conditioning(tokens.float(), pooled.float(), empty[0].float(), empty[1].float())
        self._keys = [
            (str(rows.keys[row]), LANGUAGES[language]) for row, language in zip(self._chosen, languages, strict=True)
        ]
        self._said = False

    def __call__(self, step: int, denoiser: Any) -> None:
        """Draw the grid of `step` with `denoiser` as this run's half; a grid that fails costs the grid, not the run."""
        try:
            drawn = self._draw(denoiser)
            if drawn is None:
                return
            path = self._job.run_folder / FOLDER / f"step-{step:06d}.png"
            write_atomically(path, png(grid(drawn)))
            self._write_captions()
            self._told(path)
        except Exception as error:
            log.warning("No sample grid of step %d: %s: %s", step, type(error).__name__, error)

    def _draw(self, denoiser: Any) -> list[Image.Image] | None:
        other = other_run(self._job)
        partner = newest_partner(other) if other is not None else None
        if other is None or partner is None:
            if not self._said:
                log.warning("No sample grids of the pair yet: the other half has no checkpoint.")
            self._said = True
            return None
        networks = {self._job.role: denoiser, other.role: partner[0]}
        contracts = {self._job.role: self._contract, other.role: partner[1]}
        device = next(denoiser.parameters()).device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            return draw_pair(self._job, networks, contracts, self._conditioning, device)

    def _write_captions(self) -> None:
        """Beside the grids, once: the key, the language and the caption of each picture, in their order."""
        path = self._job.run_folder / FOLDER / "captions.json"
        if path.is_file():
            return
        texts = captions_of(self._job, {key for key, _ in self._keys})
        facts = [
            {"key": key, "language": language, "caption": texts.get(key, {}).get(f"caption_{language}")}
            for key, language in self._keys
        ]
        write_atomically(path, json.dumps(facts, indent=1, ensure_ascii=False).encode())


def draw_pair(
    job: TrainJob, networks: dict[Any, Any], contracts: dict[Any, GeneratorContract], conditioning: Conditioning,
    device: torch.device,
) -> list[Image.Image]:  # fmt: skip
    """One square image per caption, from noise that depends on its place in the grid only."""
    pair = PanGuDrawPipeline(
        structure=networks["structure"],
        texture=networks["texture"],
        vae=load_autoencoder(job.recipe.autoencoder),
        scheduler=sampler(job.recipe.schedule),
        tokenizer=None,
        text_encoder=None,
        contracts={role: contract.model_dump(mode="json") for role, contract in contracts.items()},
    )
    pair.to(device)
    sampling, side = job.recipe.sampling, contracts["structure"].resolution
    count = len(conditioning.tokens_bnc)
    trajectory = pair.start(
        conditioning,
        height=side,
        width=side,
        num_inference_steps=sampling.num_inference_steps,
        guidance_scale=sampling.guidance_scale,
        generators=[torch.Generator().manual_seed(job.recipe.seed + index) for index in range(count)],
    )
    while not trajectory.finished:
        trajectory = pair.advance(trajectory, "structure" if trajectory.timestep >= pair.boundary else "texture")
    return list(pair.decode(trajectory.latents_bchw))


def grid(images: list[Image.Image]) -> Image.Image:
    """Equally sized images on white, in rows of at most eight."""
    columns = min(8, len(images))
    width, height = images[0].size
    lines = -(-len(images) // columns)
    sheet = Image.new("RGB", ((width + GAP) * columns + GAP, (height + GAP) * lines + GAP), "white")
    for index, image in enumerate(images):
        y, x = divmod(index, columns)
        sheet.paste(image, (GAP + x * (width + GAP), GAP + y * (height + GAP)))
    return sheet


def png(image: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()
