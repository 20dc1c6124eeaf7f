"""`pangu calibrate`: measure this installation by small real work, in core-seconds, which other work hardly moves.

Stages run in a home of their own; finished trainings of the real home join the fit.
"""

import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from pangu.config import Execution, Recipe, Role
from pangu.data.card import load_card
from pangu.data.encode.pixels import fit_pixels
from pangu.data.encode.stage import encode
from pangu.data.example.openmoji import render_png, selection
from pangu.data.example.origin import open_origin
from pangu.data.images import ImageHWC
from pangu.data.ingest.stage import ingest
from pangu.data.prepare.stage import prepare
from pangu.data.prepare.upscale import make_upscaler
from pangu.models.denoisers import build_denoiser
from pangu.planning.figures import Figures, MeasuredTraining, StageCost, fit, two_sizes
from pangu.planning.operations import Shapes, training_operations
from pangu.progress import Progress, Reporter, silent
from pangu.recipes import recipe as named
from pangu.storage import Home
from pangu.train.job import read_job
from pangu.train.losses import objective_of
from pangu.train.randomness import Batch
from pangu.train.setup import prepared, start
from pangu.train.step import train_step
from pangu.train.step_timer import StepTimer
from pangu.train.training_cost import SPENT_FILE, read_spent
from pangu.train.world import World

SIZES = (32, 128)
"""Images of the two runs of each stage."""
PROBES: tuple[tuple[str, Role, int], ...] = (
    ("tiny", "structure", 8),
    ("demo", "texture", 32),
    ("demo", "structure", 32),
)
"""Recipe, role and batch size of the training probes, from few operations a step to many."""


def calibrate(home: Home, report: Reporter = silent, images: tuple[int, int] = SIZES, steps: int = 12) -> Figures:
    """Measure ingest, prepare, encode and training steps, and keep the figures in `calibration.json` of the home."""
    torch.set_num_threads(1)
    total = len(PROBES) + len(images) + 1
    samples = []
    for done, (name, role, batch) in enumerate(PROBES):
        report(Progress(stage="calibrate", done=done, total=total, unit="measurements", facts={"recipe": name}))
        samples.append(probe(named(name), role, batch, steps))
    stages = []
    for done, count in enumerate(images):
        report(
            Progress(
                stage="calibrate", done=len(PROBES) + done, total=total, unit="measurements", facts={"images": count}
            )
        )
        stages.append(run_stages(count))
    (small_s, _), (large_s, stored) = stages
    lines = {
        name: two_sizes((images[0], small_s[name]), (images[1], large_s[name]), stored[name] / images[1])
        for name in ("ingest", "prepare", "encode")
    }
    decode_s, upscale_s = per_megapixel()
    samples += finished_trainings(home)
    figures = Figures(
        machine=f"{platform.machine()}, {os.cpu_count()} cores",
        cores=os.cpu_count() or 1,
        step=fit(samples),
        samples=tuple(samples),
        decode_s_per_megapixel=decode_s,
        upscale_s_per_megapixel=upscale_s,
        **without_pixels(lines, images, decode_s, upscale_s),
    )
    figures.save(home)
    report(Progress(stage="calibrate", done=total, total=total, unit="measurements"))
    return figures


def probe(recipe: Recipe, role: Role, batch_size: int, steps: int) -> MeasuredTraining:
    """Core-seconds of training steps of a role on noise in the shapes of real data; the median, after three to warm up."""
    shapes, device = Shapes(recipe), torch.device("cpu")
    network = build_denoiser(recipe.denoiser_of(role), shapes.latent_channels, shapes.tokens, shapes.pooled).train()
    ema, optimizer = start(network, recipe)
    side = recipe.training(role).resolution // 8
    shape = batch_size, shapes.latent_channels, side, side
    batch = Batch(
        latents_bchw=torch.randn(shape),
        noise_bchw=torch.randn(shape),
        tokens_bsc=torch.randn(batch_size, recipe.max_tokens, shapes.tokens),
        pooled_bp=torch.randn(batch_size, shapes.pooled),
        timestep_b=torch.randint(500, 1000, (batch_size,)),
        preset=0,
    )
    model, timer = prepared(network, Execution(), World(device=device)), StepTimer(device, every=1_000_000)
    objective = objective_of(recipe.schedule, recipe.optimization)

    def step() -> None:
        train_step(
            model, optimizer, [batch], batch_size, objective, recipe.optimization, Execution(), timer
        )  # fmt: skip
        ema.step()

    for _ in range(3):
        step()
    spent = statistics.median(core_seconds(step) for _ in range(steps))
    return MeasuredTraining(
        name=f"{recipe.name} {role}, {steps} steps of {batch_size}, probe",
        steps=steps,
        operations_per_step=batch_size * training_operations(shapes, role),
        core_s=steps * spent,
    )


def core_seconds(work: Callable[[], object]) -> float:
    """Processor time of this process and its children, seconds."""
    before = _spent()
    work()
    return _spent() - before


def _spent() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def run_stages(count: int) -> tuple[dict[str, float], dict[str, int]]:
    """Ingest, prepare and encode `count` drawings in a home of their own: core-seconds and bytes left behind, by stage."""
    with tempfile.TemporaryDirectory(prefix="pangu-calibrate-") as folder:
        home = Home(Path(folder), tables="")
        card = load_card("openmoji")
        origin = open_origin(count, 0, Path(card.source_uri(home)), small_share=0.5)
        origin.start()
        try:
            origin.write_table(Path(card.source_uri(home)))
            spent: dict[str, float] = {}
            found: dict[str, str | int] = {}
            recipe = named("demo")

            def fetch() -> None:
                found["ingest"] = ingest(card, home).ingest_id

            def make() -> None:
                found["version"] = prepare(card, str(found["ingest"]), home).version

            spent["ingest"] = core_seconds(fetch)
            spent["prepare"] = core_seconds(make)
            spent["encode"] = core_seconds(lambda: encode(card.name, int(found["version"]), recipe, home))
        finally:
            origin.close()
        dataset = home.dataset(card.name)
        folders = {"ingest": dataset / "raw", "prepare": home.table(card.name), "encode": dataset / "encoded"}
        return spent, {name: _bytes(folder) for name, folder in folders.items()}


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def per_megapixel(side: int = 512) -> tuple[float, float]:
    """Core-seconds to decode and fit a megapixel of a PNG, and to make a megapixel by the default upscaler; medians of five."""
    drawing = render_png(selection(1)[0], side)
    small: ImageHWC = np.ascontiguousarray(fit_pixels(drawing, side // 4))
    upscaler = make_upscaler("spanx2")
    decode_s = statistics.median(core_seconds(lambda: fit_pixels(drawing, side)) for _ in range(5))
    upscale_s = statistics.median(core_seconds(lambda: upscaler.upscale(small)) for _ in range(5))
    return decode_s / (side * side / 1e6), upscale_s / ((side / 2) ** 2 / 1e6)


def without_pixels(
    lines: dict[str, StageCost], images: tuple[int, int], decode_s: float, upscale_s: float
) -> dict[str, StageCost]:
    """The measured stages with prepare's own work alone: what decoding and upscaling the small drawings took is taken out."""
    pixels_s = 0.75 * 128 * 128 / 1e6 * decode_s + 0.5 * 96 * 96 / 1e6 * upscale_s
    line = lines["prepare"]
    rest = max(line.image_s - pixels_s, 0.1 * line.image_s)
    return lines | {"prepare": line.model_copy(update={"image_s": rest})}


def finished_trainings(home: Home) -> list[MeasuredTraining]:
    """Trainings of this home on cores, of one worker or more, as samples of the step cost.

    A step of several workers is that many steps of a part of the batch: each pays the overhead.
    """
    found = []
    for path in sorted(home.run("x").parent.glob(f"*/{SPENT_FILE}")):
        job, spent = read_job(path.parent), read_spent(path.parent)
        if job is None or spent is None:
            continue
        images = job.recipe.training(job.role).batch_size / spent.workers
        found.append(
            MeasuredTraining(
                name=job.run_name,
                steps=spent.steps * spent.workers,
                operations_per_step=images * training_operations(Shapes(job.recipe), job.role),
                core_s=spent.core_s,
            )
        )
    return found


def with_trainings(figures: Figures, home: Home) -> Figures:
    """The figures with every training that has finished since they were measured, and the step cost fitted to all."""
    known = {one.name: one for one in figures.samples} | {one.name: one for one in finished_trainings(home)}
    samples = tuple(known.values())
    return figures if not samples else figures.model_copy(update={"samples": samples, "step": fit(samples)})
