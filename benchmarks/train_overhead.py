"""Images a second of the platform's training loop against a bare PyTorch loop: same network, batches and data in memory.

The bare loop is what anybody would write first: draw a batch, predict, step. The platform's loop adds the ledger, draws that do
not depend on the number of workers, running means, meters, and the check for a finite loss. Both alternate in rounds, from the
end of the first step to that of the last, and the median of their ratios counts. Beside it stands the same in core seconds of all
threads, in which the thread that draws batches ahead counts too, and other work on the machine does not.

    python benchmarks/train_overhead.py [--recipe demo] [--steps 60] [--rounds 11] [--device cuda --precision bf16]
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

from pangu.config import Recipe
from pangu.data.rows.in_memory import EncodedRows
from pangu.diffusion.interval import interval_of
from pangu.diffusion.noise import add_noise, alpha_bars, training_target
from pangu.models.denoisers import denoise
from pangu.planning.operations import Shapes
from pangu.recipes import recipe as named
from pangu.train.loop import Hooks, initial, train_loop
from pangu.train.world import World

GOAL = 0.97


def random_rows(count: int, recipe: Recipe) -> EncodedRows:
    """As many rows of noise as an encoded dataset would give, in the shapes of the recipe's encoders."""
    shapes, side = Shapes(recipe), recipe.structure.resolution // 8
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).half()

    return EncodedRows(
        keys=tuple(map(str, range(count))),
        latents_nchw=draw(count, shapes.latent_channels, side, side),
        tokens_lnsc=draw(2, count, recipe.max_tokens, shapes.tokens),
        pooled_lnp=draw(2, count, shapes.pooled),
        min_timestep_n=torch.zeros(count, dtype=torch.int64),
        preset_n=torch.zeros(count, dtype=torch.int64),
        empty_tokens_sc=draw(recipe.max_tokens, shapes.tokens),
        empty_pooled_p=draw(shapes.pooled),
    )


class Seconds(NamedTuple):
    """A moment, or what has passed since another: by the clock, and of all threads of this process on a core."""

    clock: float
    core: float

    def since(self, other: "Seconds") -> "Seconds":
        return Seconds(self.clock - other.clock, self.core - other.core)


def now() -> Seconds:
    return Seconds(time.perf_counter(), time.process_time())


def bare_seconds(recipe: Recipe, rows: EncodedRows, device: torch.device) -> Seconds:
    """What a plain loop takes for the recipe's structure steps but the first."""
    training, schedule, settings = recipe.structure, recipe.schedule, recipe.optimization
    model = initial(recipe, rows, "structure").to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr_peak, betas=settings.betas, fused=True)
    alpha_bars_t = alpha_bars(schedule).to(device)
    interval = interval_of("structure", recipe.boundary, schedule.num_train_timesteps)
    ends = []
    for step in range(training.steps):
        picked = torch.randint(len(rows), (training.batch_size,))
        language = torch.randint(2, (training.batch_size,))
        clean = rows.latents_nchw[picked].float().to(device)
        tokens = rows.tokens_lnsc[language, picked].float().to(device)
        pooled = rows.pooled_lnp[language, picked].float().to(device)
        t = torch.randint(interval.low, interval.high, (training.batch_size,), device=device)
        noise = torch.randn_like(clean)
        noisy = add_noise(clean, noise, alpha_bars_t[t])
        target = training_target(clean, noise, alpha_bars_t[t], schedule.prediction_type)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.execution.precision == "bf16"):
            prediction = denoise(model, noisy, t, tokens, pooled, 0)
        loss = (prediction.float() - target).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
        optimizer.step()
        if step in (0, training.steps - 1):
            float(loss.detach())  # a GPU works behind the program's back
            ends.append(now())
    return ends[-1].since(ends[0])


def platform_seconds(recipe: Recipe, rows: EncodedRows, device: torch.device) -> Seconds:
    """What `train_loop` takes for the same steps, without its checkpoint at the end."""
    ends: list[Seconds] = []
    with tempfile.TemporaryDirectory() as folder:
        hooks = Hooks(metrics=lambda step, _: ends.append(now()))
        train_loop("structure", recipe, rows, "benchmark", Path(folder), World(device=device), hooks)
    return ends[-1].since(ends[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--rows", type=int, default=420)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    recipe = named(asked.recipe)
    recipe = recipe.model_copy(
        update={
            "jobs": recipe.jobs | {"structure": recipe.structure.model_copy(update={"steps": asked.steps})},
            "optimization": recipe.optimization.model_copy(update={"log_every": 1}),
            "execution": recipe.execution.model_copy(update={"precision": asked.precision}),
        }
    )
    device, rows = torch.device(asked.device), random_rows(asked.rows, recipe)
    loops = {"bare": bare_seconds, "platform": platform_seconds}
    took: dict[str, list[Seconds]] = {name: [] for name in loops}
    for number in range(asked.rounds):
        for name in sorted(loops, reverse=number % 2 == 1):  # nobody is always the first
            took[name].append(loops[name](recipe, rows, device))
    images = (asked.steps - 1) * recipe.structure.batch_size
    for name, rounds in took.items():
        speeds = [images / one.clock for one in rounds]
        print(f"{name:9} {statistics.median(speeds):8.1f} images/s (rounds: {', '.join(f'{v:.1f}' for v in speeds)})")
    pairs = list(zip(took["bare"], took["platform"], strict=True))
    value = statistics.median(bare.clock / ours.clock for bare, ours in pairs)
    core = statistics.median(bare.core / ours.core for bare, ours in pairs)
    result = {"name": "train_overhead", "value": round(value, 4), "goal": GOAL, "holds": value >= GOAL}
    print(json.dumps(result | {"core_seconds": round(core, 4)}))


if __name__ == "__main__":
    main()
