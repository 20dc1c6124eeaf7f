"""What a training needs before its first step: sizes that fit, a network, running means, an optimizer."""

from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from pangu.config import Execution, Recipe, Role
from pangu.data.captions import Caption
from pangu.data.rows.training_rows import Rows
from pangu.errors import UserError
from pangu.models.compiled import compile_blocks
from pangu.models.denoisers import build_denoiser, check_latent_sizes, family_of
from pangu.models.lora import trained_parameters
from pangu.train.ema import Ema
from pangu.train.moments import CompactAdamW
from pangu.train.randomness import Windows
from pangu.train.rows_by_bucket import RowsByBucket
from pangu.train.world import World


def check_sizes(role: Role, recipe: Recipe, world: World) -> None:
    """Raises UserError if a batch cannot be shared by the workers, or their shares not be divided for accumulation."""
    batch_size, parts = recipe.training(role).batch_size, recipe.execution_of(role).accumulate
    if batch_size < world.size:
        raise UserError(f"batch_size {batch_size} of {role} cannot be shared by {world.size} workers; raise it.")
    if parts > 1 and batch_size % (world.size * parts):
        raise UserError(
            f"batch_size {batch_size} of {role} cannot be cut into {parts} equal parts on each of {world.size} workers; "
            f"make it a multiple of {world.size * parts}."
        )


def check_drawable(denoiser: Any, rows: Rows, windows: Windows | None) -> None:
    """Raises UserError if a shape of the rows, or of the windows that are cut out of them, is none that the network draws."""
    first = RowsByBucket(rows.preset_n.numpy()).first()
    whole = ((preset, rows.latents([at]).shape[2:]) for preset, at in first.items())
    check_latent_sizes(denoiser, ((windows or {}).get(preset) or (size[0], size[1]) for preset, size in whole))


def initial(recipe: Recipe, rows: Rows, role: Role) -> Any:
    """A network of random weights: a function of the recipe's seed, the same for roles of one shape (common start)."""
    tokens, pooled = rows.captions([0], [Caption()])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return build_denoiser(recipe.denoiser_of(role), rows.latents([0]).shape[1], tokens.shape[-1], pooled.shape[-1])


def start(denoiser: Any, recipe: Recipe, world: World | None = None) -> tuple[Ema, torch.optim.Optimizer]:
    """Running means and optimizer of the trained weights at step 0."""
    settings, execution, parameters = recipe.optimization, recipe.execution, trained_parameters(denoiser)
    ema = Ema(parameters, settings.ema_decays, execution, (world or World()).rank)
    options: dict[str, Any] = {
        "lr": settings.lr_peak,
        "betas": settings.betas,
        "weight_decay": settings.weight_decay,
    }
    optimizer = (
        torch.optim.AdamW(parameters, fused=True, **options)
        if execution.moments == "fp32"
        else CompactAdamW(parameters, execution.moments, **options)
    )
    optimizer.register_step_pre_hook(ema.before_change)
    return ema, optimizer


def prepared(denoiser: Any, execution: Execution, world: World) -> Any:
    """What the steps call: the denoiser, shared by the workers and compiled as asked.

    Lays out the weights in memory, so it comes before the optimizer and the running means, which take over their strides.
    """
    for module in family_of(denoiser).unused_modules(denoiser):
        module.requires_grad_(False)
    if execution.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    if execution.channels_last:
        denoiser.to(memory_format=torch.channels_last)
    if execution.compile:
        compile_blocks(denoiser)
    return DistributedDataParallel(denoiser, gradient_as_bucket_view=True) if world.size > 1 else denoiser
