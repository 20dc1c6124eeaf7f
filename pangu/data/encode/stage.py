"""Images and captions to latents and text embeddings, once per dataset version, set of encoders and way of looking at images.

Originals and upscaled rows never share a file, so a job that trains on originals opens none that holds an upscaled row; jobs that
look at images alike share the files.
"""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

from pydantic import Field
from safetensors.torch import save

from pangu.actors import Crew, Spread, crew
from pangu.config import Frozen, Recipe, Role
from pangu.data.encode.chunk_files import decode, write_files
from pangu.data.encode.chunks import Chunk, chunks_of
from pangu.data.encode.encode_plan import plan
from pangu.data.encode.encoded import EMPTY_CAPTION_FILE, EncodedManifest
from pangu.data.encode.encoders import Loaded, describe
from pangu.data.encode.fidelity import Fidelity, measure
from pangu.data.encode.merging import groups_to_join, join
from pangu.data.encode.view_latents import BATCH
from pangu.data.table.delta import data_files
from pangu.file_lock import locked
from pangu.models.devices import best_device
from pangu.models.text import embed_captions
from pangu.progress import Progress, Reporter, silent
from pangu.storage import Home, write_atomically, write_json


class EncodeOutcome(Frozen):
    """What `encode` made; `rows` are those of the training split."""

    dataset: str
    version: int
    encode_id: str
    rows: dict[Role, int]
    autoencoder_db: float | None = Field(None, description="Mean PSNR of decoded latents against some of the pictures")
    warnings: tuple[str, ...] = ()
    already_done: bool = False


def encode(
    dataset: str,
    version: int,
    recipe: Recipe,
    home: Home,
    report: Reporter = silent,
    batch_size: int = BATCH,
    spread: Spread | None = None,
) -> EncodeOutcome:
    """Encode one dataset version for every job of the recipe; resumes where a killed run stopped.

    A recipe that encodes on the fly gets a manifest only. spread: where files are made; None: in this process. On a cluster with
    GPUs actors make them, which need to see the same storage, and this process none.

    Raises:
        UserError: a job of the recipe would have no row to learn from, or a row has a style that the recipe does not know.
    """
    loaded = Loaded.of(recipe, best_device())
    manifest = plan(dataset, version, recipe, home, describe(loaded.autoencoder, loaded.towers, recipe.max_tokens))
    folder = home.encoded(dataset, manifest.encode_id())
    loaded.fast()
    joins = manifest.latents == "precomputed" and not (folder / "manifest.json").is_file()
    # Two at once would join each other's files; the second finds the work of the first.
    with locked(folder / ".lock", wait_s=None) if joins else nullcontext():
        finished = (folder / "manifest.json").is_file()
        done = finished and (folder / EMPTY_CAPTION_FILE).is_file()
        if manifest.latents == "precomputed":
            workers = crew("encode", partial(Loaded.at_work, recipe), spread or Spread(), own=lambda: loaded)
            chunks = partial(chunks_of, manifest, home, folder)
            done = not _make_files(chunks, workers, report, batch_size, finished) and done
        if not done:
            _measure_autoencoder(manifest, home, folder, loaded)
            tokens, pooled = embed_captions(loaded.towers, [""], recipe.max_tokens)
            write_atomically(
                folder / EMPTY_CAPTION_FILE, save({"tokens": tokens.float().cpu(), "pooled": pooled.float().cpu()})
            )
            write_json(folder / "manifest.json", manifest.model_dump(mode="json"))
    kept = Fidelity.load(folder)
    return EncodeOutcome(
        dataset=dataset,
        version=version,
        encode_id=manifest.encode_id(),
        rows=manifest.rows,
        autoencoder_db=round(kept.mean_db, 2) if kept else None,
        warnings=(kept.warning,) if kept and kept.warning else (),
        already_done=done,
    )


def _measure_autoencoder(manifest: EncodedManifest, home: Home, folder: Path, loaded: Loaded) -> None:
    """At the largest size that a job sees, on originals where there are any."""
    sizes = [data.view.sizes[index] for data in manifest.jobs.values() for index in data.view.kept]
    originals = data_files(home, manifest.dataset, manifest.version, upscaled=False)
    files = originals or data_files(home, manifest.dataset, manifest.version)
    if found := measure(files, max(sizes, key=math.prod), loaded.autoencoder):
        found.save(folder)


def _make_files(
    chunks: Callable[[], Iterator[Chunk]],
    workers: AbstractContextManager[Crew[Loaded]],
    report: Reporter,
    batch_size: int,
    finished: bool,
) -> int:
    """Have the files written that are not there, and joined into large ones; returns how many chunks lacked one.

    chunks: all of them, each time it is called. finished: somebody may read the dataset, so no file changes its place.
    """
    total, done, missing = 0, 0, 0
    for chunk in chunks():
        lacks = bool(chunk.missing())
        total, done, missing = total + chunk.rows, done + chunk.rows * (not lacks), missing + lacks
    report(Progress(stage="encode", done=done, total=total, unit="images"))
    if missing or not finished:
        with workers as hands:
            # Where actors read, one core each does; this process has them all.
            threads = 1 if hands.actors else min(8, len(os.sched_getaffinity(0)))
            write, lacking = partial(write_files, batch_size=batch_size), (one for one in chunks() if one.missing())
            for chunk, _ in hands.map(write, lacking, partial(decode, threads=threads)):
                done += chunk.rows
                report(Progress(stage="encode", done=done, total=total, unit="images"))
            if not finished:
                for _ in hands.map(_join, groups_to_join(chunks())):
                    pass
    return missing


def _join(_: Loaded, parts: list[Path]) -> None:
    join(parts)
