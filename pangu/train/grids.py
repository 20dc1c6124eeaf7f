"""Sample grids of a run while it trains: of a pair with the newest of the other run, of a generator for all timesteps alone.

Captions, languages and noise are the same at every step and for both runs of a pair. Draws from sources of its own, so training
does not notice.
"""

import hashlib
import heapq
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from pangu.config import Strategy
from pangu.contract import GeneratorContract
from pangu.data.captions import LANGUAGES
from pangu.data.rows.training_rows import Rows
from pangu.image_grid import png, sample_grid
from pangu.storage import write_atomically
from pangu.train.history import SAMPLES_FOLDER
from pangu.train.job import TrainJob, captions_of, other_run
from pangu.train.other_half import newest_partner
from pangu.train.sample_grid import draw_alone, draw_pair, languages_of, subject_of

COLUMNS = 8
DRAWN: tuple[Strategy, ...] = ("time_decoupling", "single", "control")
"""Strategies whose runs can draw a picture while they train; a stage of a baseline needs what is trained after it."""

log = logging.getLogger(__name__)


def chosen_rows(rows: Rows, count: int, seed: int, of_one_bucket: bool = False) -> list[int]:
    """Rows whose captions are drawn: by a hash of their keys, originals first, so that both runs of a pair choose the same."""

    def ordered(bucket: int | None = None) -> Iterator[tuple[bool, str, int]]:
        limits, presets = rows.min_timestep_n.numpy(), rows.preset_n.numpy()
        for row, key in enumerate(rows.keys):
            if bucket is None or presets[row] == bucket:
                yield bool(limits[row] > 0), hashlib.sha256(f"{seed}/{key}".encode()).hexdigest(), row

    bucket = int(rows.preset_n[min(ordered())[2]]) if of_one_bucket else None
    return [row for _, _, row in heapq.nsmallest(count, ordered(bucket))]


class Grids:
    """Draws `samples/step-NNNNNN.png` in the run folder; every other caption is Chinese.

    Of a ControlNet's run each picture stands to the right of the edges that it was drawn after.
    told: is called with the path of each grid.
    """

    def __init__(self, job: TrainJob, rows: Rows, contract: GeneratorContract, told: Callable[[Path], None]) -> None:
        self._job, self._contract, self._told = job, contract, told
        self._alone = job.recipe.strategy != "time_decoupling"
        chosen = chosen_rows(rows, job.recipe.watching.samples, job.recipe.seed, of_one_bucket=self._alone)
        self._subject = subject_of(rows, chosen, contract)
        self._keys = [
            (str(rows.keys[row]), LANGUAGES[language])
            for row, language in zip(chosen, languages_of(chosen), strict=True)
        ]
        self._said = False

    def __call__(self, step: int, denoiser: Any) -> None:
        """Draw the grid of `step` with `denoiser` as this run's half; a grid that fails costs the grid, not the run."""
        try:
            drawn = self._draw(denoiser)
            if drawn is None:
                return
            path = self._job.run_folder / SAMPLES_FOLDER / f"step-{step:06d}.png"
            lines = [drawn[first : first + COLUMNS] for first in range(0, len(drawn), COLUMNS)]
            write_atomically(path, png(sample_grid(lines)))
            self._write_captions()
            self._told(path)
        except Exception as error:
            log.warning("No sample grid of step %d: %s: %s", step, type(error).__name__, error)

    def _draw(self, denoiser: Any) -> list[Image.Image] | None:
        device = next(denoiser.parameters()).device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            if self._alone:
                return draw_alone(self._job.recipe, denoiser, self._contract, self._subject, device)
            return self._draw_with_the_other_half(denoiser, device)

    def _draw_with_the_other_half(self, denoiser: Any, device: torch.device) -> list[Image.Image] | None:
        other = other_run(self._job)
        partner = newest_partner(other) if other is not None else None
        if other is None or partner is None:
            if not self._said:
                log.warning("No sample grids of the pair yet: the other half has no checkpoint.")
            self._said = True
            return None
        networks = {self._job.role: denoiser, other.role: partner[0]}
        contracts = {self._job.role: self._contract, other.role: partner[1]}
        return draw_pair(self._job.recipe, networks, contracts, self._subject, device)

    def _write_captions(self) -> None:
        """Beside the grids, once: the key, the language and the caption of each picture, in their order."""
        path = self._job.run_folder / SAMPLES_FOLDER / "captions.json"
        if path.is_file():
            return
        texts = captions_of(self._job, {key for key, _ in self._keys})
        facts = [
            {"key": key, "language": language, "caption": texts.get(key, {}).get(f"caption_{language}")}
            for key, language in self._keys
        ]
        write_atomically(path, json.dumps(facts, indent=1, ensure_ascii=False).encode())
