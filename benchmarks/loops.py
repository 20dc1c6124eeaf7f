"""The platform's training loop, and the plain one that anybody would write first: same network, batches and data in memory."""

import tempfile
import time
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pangu.config import Execution, Recipe, Role
from pangu.data.rows.in_memory import EncodedRows
from pangu.diffusion.interval import interval_of
from pangu.diffusion.noise import add_noise, training_target
from pangu.diffusion.training_levels import training_levels
from pangu.models.denoisers import build_denoiser, denoise
from pangu.planning.operations import Shapes
from pangu.train.loop import Hooks, train_loop
from pangu.train.setup import prepared
from pangu.train.world import World

MANY = 10**6
"""Steps of a run that is ended long before."""


class Spent(NamedTuple):
    """Seconds by the clock, and of all threads of this process on a core."""

    clock: float
    core: float

    def since(self, other: "Spent") -> "Spent":
        return Spent(self.clock - other.clock, self.core - other.core)


def moment() -> Spent:
    return Spent(time.perf_counter(), time.process_time())


def timed(recipe: Recipe, role: Role, execution: Execution, log_every: int) -> Recipe:
    """The recipe as one of its workers meets it: its share of the batch, no checkpoint, a log line every so many steps."""
    job = recipe.training(role)
    share = {"steps": MANY, "batch_size": job.batch_size // recipe.workers, "presets": "square", "execution": None}
    return recipe.model_copy(
        update={
            "jobs": recipe.jobs | {role: job.model_copy(update=share)},
            "optimization": recipe.optimization.model_copy(update={"log_every": log_every, "checkpoint_every": MANY}),
            "execution": execution,
            "workers": 1,
        }
    )


def random_rows(shapes: Shapes, count: int, side: int) -> EncodedRows:
    """As many rows of noise as an encoded dataset would give; side: in latents."""
    generator = torch.Generator().manual_seed(0)
    tokens, pooled = shapes.tokens, shapes.pooled

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).half()

    return EncodedRows(
        keys=tuple(map(str, range(count))),
        latents_nchw=draw(count, shapes.latent_channels, side, side),
        tokens_lnsc=draw(2, count, shapes.recipe.max_tokens, tokens),
        pooled_lnp=draw(2, count, pooled),
        min_timestep_n=torch.zeros(count, dtype=torch.int64),
        preset_n=torch.zeros(count, dtype=torch.int64),
        empty_tokens_sc=draw(shapes.recipe.max_tokens, tokens),
        empty_pooled_p=draw(pooled),
    )


def network_of(shapes: Shapes, role: Role, device: torch.device) -> Any:
    """Random weights, drawn where they stay."""
    with torch.device(device):
        return build_denoiser(shapes.recipe.denoiser_of(role), shapes.latent_channels, shapes.tokens, shapes.pooled)


class Enough(Exception):
    """The loop has run for as long as it was to be timed."""


def our_loop(
    recipe: Recipe, role: Role, rows: EncodedRows, network: Any, device: torch.device, lines: int = 2
) -> Spent:
    """What `train_loop` takes from its first log line to the last of `lines`; of a single one, from the beginning."""
    marks = [moment()] if lines == 1 else []

    def line(step: int, metrics: dict[str, float]) -> None:
        marks.append(moment())  # for this line the loop has waited for the device
        if step == lines * recipe.optimization.log_every:
            raise Enough

    with tempfile.TemporaryDirectory() as folder, suppress(Enough):
        world = World(device=device)
        train_loop(role, recipe, rows, "benchmark", Path(folder), world, Hooks(metrics=line), denoiser=network)
    return marks[-1].since(marks[0])


def plain_loop(
    recipe: Recipe, role: Role, rows: EncodedRows, network: Any, device: torch.device, lines: int = 2
) -> Spent:
    """What a plain loop takes for the same steps under the same switches. Its rows lie on the device already."""
    training, schedule, settings = recipe.training(role), recipe.schedule, recipe.optimization
    rows = replace(rows, **{name: value.to(device) for name, value in _tensors(rows).items()})
    model = prepared(network.to(device).train(), recipe.execution, World(device=device))
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr_peak, betas=settings.betas, fused=True)
    levels = training_levels(schedule).to(device)
    interval = interval_of(role, recipe.boundary, schedule.num_train_timesteps)
    parts = recipe.execution.accumulate
    size, marks = training.batch_size // parts, []
    for step in range(1, lines * settings.log_every + 1):
        optimizer.zero_grad(set_to_none=True)
        for _ in range(parts):
            picked = torch.randint(len(rows), (size,), device=device)
            language = torch.randint(2, (size,), device=device)
            clean = rows.latents_nchw[picked].float()
            tokens, pooled = rows.tokens_lnsc[language, picked].float(), rows.pooled_lnp[language, picked].float()
            t = torch.randint(interval.low, interval.high, (size,), device=device)
            noise = torch.randn_like(clean)
            level = levels.level(t)
            noisy = add_noise(clean, noise, level)
            target = training_target(clean, noise, level, levels.prediction)
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.execution.precision == "bf16"):
                prediction = denoise(model, noisy, t, tokens, pooled, 0)
            loss = (prediction.float() - target).square().mean()
            (loss / parts).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
        optimizer.step()
        if step % settings.log_every == 0:
            float(loss.detach())  # waits for the device
            marks.append(moment())
    return marks[-1].since(marks[0])


def _tensors(rows: EncodedRows) -> dict[str, Tensor]:
    values = {field.name: getattr(rows, field.name) for field in fields(rows)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}
