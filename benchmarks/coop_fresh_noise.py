"""Why noise is fresh after a resolution hand-off: the paper's Fig. 3a on the embedded drawings, as a picture and as figures.

No network is trained. Both models are exact denoisers of the drawings: the low-resolution one is the posterior mean over whole
drawings, the high-resolution one over their patches (as networks see them: locally). Where the low model stops, one path enlarges
its clean estimate and adds fresh noise, through `CoopPipeline`; the naive one enlarges the noisy sample bilinearly.

    python benchmarks/coop_fresh_noise.py [--drawings 5] [--picture docs/coop_fresh_noise.png]
"""

import argparse
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMPipeline
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import interpolate, unfold

from pangu.data.example.openmoji import render_png, selection
from pangu.diffusion.fusion import NoiseLevel
from pangu.image_grid import FAINT, INK, png, sample_grid, write
from pangu.pipelines.coop import CoopPipeline, Handoff
from pangu.pipelines.coop.bridge import psnr
from pangu.pipelines.coop.handoff import first_call
from pangu.sampling.condition import Condition
from pangu.sampling.levels import begun_at, sample_level, trained_levels
from pangu.sampling.sampling_state import SamplingState
from pangu.sampling.sampling_step import walk
from pangu.sampling.trajectory import Trajectory

LOW, HIGH, PATCH, PATCHES, T_LOW, STEPS = 48, 96, 7, 4000, 340, 12


def drawings(count: int, side: int) -> Tensor:
    """(count, 3, side, side) in [-1, 1]."""
    arrays = [np.asarray(Image.open(io.BytesIO(render_png(one, side)))) for one in selection(count)]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


class ExactDenoiser(ModelMixin, ConfigMixin):
    """Predicts the noise that the posterior mean over known pictures leaves; whole pictures, or patch by patch."""

    @register_to_config
    def __init__(self, sample_size: int, in_channels: int = 3, block_out_channels: tuple[int, ...] = (1, 1)) -> None:
        super().__init__()
        self.levels = trained_levels(schedule(), "the denoiser")
        self.anchor = torch.nn.Parameter(torch.zeros(1), requires_grad=False)

    def knows(self, known: Tensor, patch: int | None = None) -> "ExactDenoiser":
        """known: pictures (N, 3, H, W); `patch` is the side of the patches that are compared instead."""
        self.patch = patch
        if patch is None:
            self.known, self.answers = known.flatten(1), known.flatten(1)
        else:
            columns = unfold(known, patch, padding=patch // 2).transpose(1, 2).reshape(-1, 3 * patch**2)
            columns = columns[
                (columns - columns.mean(1, keepdim=True)).abs().amax(1) > 0.05
            ]  # paper alone says nothing
            chosen = torch.randperm(len(columns), generator=torch.Generator().manual_seed(0))[:PATCHES]
            flat = torch.tensor([[-1.0], [1.0]]).expand(2, columns.shape[1])
            self.known = torch.cat([columns[chosen], flat])
            self.answers = self.known.reshape(-1, 3, patch**2)[:, :, patch**2 // 2]
        return self

    def forward(self, noisy: Tensor, timestep: Any, return_dict: bool = True) -> Any:
        level = self.levels.level(float(timestep))
        clean = self._mean(noisy / level.signal, level)
        noise = (noisy - level.signal * clean) / level.sigma
        return SimpleNamespace(sample=noise) if return_dict else (noise,)

    def _mean(self, seen: Tensor, level: NoiseLevel) -> Tensor:
        rows = seen.flatten(1)
        if self.patch is not None:
            rows = unfold(seen, self.patch, padding=self.patch // 2).transpose(1, 2).reshape(-1, self.known.shape[1])
        spread = level.sigma / level.signal
        answers = torch.cat([self._rows(part, spread) for part in rows.split(2304)])
        if self.patch is None:
            return answers.reshape(seen.shape)
        return answers.reshape(len(seen), -1, 3).transpose(1, 2).reshape(seen.shape)

    def _rows(self, rows: Tensor, spread: float) -> Tensor:
        apart = torch.cdist(rows, self.known).square() / (2 * spread**2)
        return (-apart).softmax(1) @ self.answers


def schedule() -> DDIMScheduler:
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)


def neighbour_correlation(noise: Tensor) -> float:
    """Of each pixel with the one to its right."""
    normal = (noise - noise.mean()) / noise.std()
    return float((normal[..., :-1] * normal[..., 1:]).mean())


def model(side: int, known: Tensor, patch: int | None = None) -> DDPMPipeline:
    pipe = DDPMPipeline(ExactDenoiser(side).knows(known, patch), schedule())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def both_paths(low: DDPMPipeline, high: DDPMPipeline, seed: int) -> dict[str, Any]:
    """Pictures in [-1, 1] of both paths, what the low model drew, and the noise where the high model begins, by name."""
    coop = CoopPipeline(high, handoff=Handoff(low, t_low=T_LOW, upsample="bilinear"))
    coop.set_progress_bar_config(disable=True)

    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    begun: list[Tensor] = []
    hook = high.unet.register_forward_pre_hook(lambda _, arguments: begun.append(arguments[0].clone()))
    ours = coop(num_inference_steps=STEPS, generator=seeded(), output_type="pt").images * 2 - 1
    hook.remove()
    alone = CoopPipeline(low)
    alone.set_progress_bar_config(disable=True)
    drawn = alone(num_inference_steps=STEPS, generator=seeded(), output_type="pt").images * 2 - 1
    sampler = coop.models.main.sampler(STEPS, HIGH, HIGH)
    first = first_call(sampler, T_LOW)
    level, states = sample_level(sampler.scheduler, first), {}
    alone(
        num_inference_steps=STEPS, generator=seeded(), output_type="latent",
        callback_on_step_end=lambda pipe, step, t, tensors: states.update({step: tensors["latents"]}),
    )  # fmt: skip
    naive = interpolate(states[first - 1], size=(HIGH, HIGH), mode="bilinear")
    target = interpolate(drawn, size=(HIGH, HIGH), mode="bilinear")
    noise = {"fresh": (begun[0] - level.signal * target) / level.sigma}
    noise["naive"] = (naive - level.signal * target) / level.sigma
    scheduler = begun_at(sampler.scheduler, first)
    entered = Trajectory(naive, scheduler.timesteps, first, scheduler, Condition())
    finished = walk(SamplingState(coop.models.main, entered)).trajectory.latents_bchw
    return {"low": drawn, "fresh": ours, "naive": finished.clamp(-1, 1), "noise": noise}


def image(pixels: Tensor, side: int = HIGH) -> Image.Image:
    array = ((pixels[0].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(array).resize((side, side), Image.Resampling.NEAREST)


def picture(rows: list[list[Image.Image]], titles: list[str], correlations: dict[str, float]) -> Image.Image:
    """One row a drawing, with the columns' titles above."""
    grid, top = sample_grid(rows, 8), 46
    sheet = Image.new("RGB", (grid.width, grid.height + top), "white")
    sheet.paste(grid, (0, top))
    draw, width = ImageDraw.Draw(sheet), rows[0][0].width + 8
    for place, title in enumerate(titles):
        name, under = [*title.split("|"), ""][:2]
        write(draw, (8 + place * width, 8), name, 14, INK)
        write(draw, (8 + place * width, 27), under.format(**correlations), 11, FAINT)
    return sheet


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drawings", type=int, default=3)
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    low = model(LOW, drawings(120, LOW))
    known = drawings(120, HIGH)
    high = model(HIGH, known, PATCH)
    rows, found = [], []
    for seed in range(asked.drawings):
        paths = both_paths(low, high, seed)
        truth = known[
            torch.cdist(interpolate(known, size=LOW, mode="area").flatten(1), paths["low"].flatten(1)).argmin()
        ]
        found.append(
            {f"{name}_correlation": neighbour_correlation(paths["noise"][name]) for name in ("fresh", "naive")}
            | {f"{name}_db": psnr(paths[name], truth[None]) for name in ("fresh", "naive")}
        )
        noise = [paths["noise"][name] / 3 for name in ("naive", "fresh")]
        pictures = [paths["low"], noise[0], paths["naive"], noise[1], paths["fresh"], truth[None]]
        rows.append([image(one, 144) for one in pictures])
        print({name: round(value, 3) for name, value in found[-1].items()})
    means = {name: round(float(np.mean([one[name] for one in found])), 3) for name in found[0]}
    if asked.picture is not None:
        titles = ["low resolution", "naive noise|neighbours {naive_correlation:.2f}", "naive path|{naive_db:.1f} dB"]
        titles += ["fresh noise|neighbours {fresh_correlation:.2f}", "fresh path|{fresh_db:.1f} dB", "the drawing"]
        asked.picture.write_bytes(png(picture(rows, titles, means)))
    holds = abs(means["fresh_correlation"]) <= 0.05 and means["naive_correlation"] >= 0.3
    print(
        json.dumps(
            {"name": "coop_fresh_noise", "value": means["fresh_correlation"], "goal": 0.05, "holds": holds} | means
        )
    )


if __name__ == "__main__":
    main()
