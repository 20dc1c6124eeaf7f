"""What a training shows of itself: captions, noise and control images in, pictures out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torch import Tensor

from pangu.config import Recipe, Role
from pangu.contract import GeneratorContract
from pangu.data.captions import EMPTY, LANGUAGES, Caption
from pangu.data.rows.training_rows import Rows
from pangu.models.autoencoders import decode_latents, load_autoencoder
from pangu.models.denoisers import denoise, latent_channels
from pangu.models.schedulers import fresh_scheduler, noise_scale, sampler
from pangu.pipelines.pair_inputs import presets_of
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.sampling.condition import Condition, text_condition
from pangu.sampling.noise_sources import unit_noise
from pangu.sampling.question import DenoiserModel
from pangu.sampling.sampling_state import SamplingState
from pangu.sampling.sampling_step import walk
from pangu.sampling.trajectory import Trajectory, clean_latents


@dataclass(frozen=True)
class Subject:
    """What is drawn at every step of a run: N captions, English and Chinese in turn, of one resolution preset.

    control_nchw: (N, 3, H, W) in [0, 1], px, of the pictures' size; None unless a ControlNet is trained.
    """

    condition: Condition
    preset: int
    control_nchw: Tensor | None = None


def subject_of(rows: Rows, chosen: Sequence[int], contract: GeneratorContract) -> Subject:
    """The captions of the chosen rows, and what a ControlNet is shown of them; those of one bucket where it is shown anything."""
    languages = languages_of(chosen)
    tokens, pooled = rows.captions(chosen, [Caption(language) for language in languages])
    empty = rows.captions(chosen, [Caption(EMPTY)] * len(chosen))
    preset = int(rows.preset_n[chosen[0]])
    control = rows.control(chosen)
    return Subject(
        text_condition(tokens.float(), pooled.float(), empty[0].float(), empty[1].float()),
        preset,
        None if control is None else middle(control.float(), *presets_of(contract)[preset]),
    )


def languages_of(chosen: Sequence[int]) -> list[int]:
    """Which language each is asked in: every other one in Chinese."""
    return [place % len(LANGUAGES) for place in range(len(chosen))]


def middle(pictures_nchw: Tensor, height: int, width: int) -> Tensor:
    """(N, C, height, width) from the middle of (N, C, H, W), no smaller ones: a run on windows shows such a window."""
    top, left = (pictures_nchw.shape[2] - height) // 2, (pictures_nchw.shape[3] - width) // 2
    return pictures_nchw[:, :, top : top + height, left : left + width]


def draw_pair(
    recipe: Recipe, networks: Mapping[Role, Any], contracts: Mapping[Role, GeneratorContract], subject: Subject,
    device: torch.device,
) -> list[Image.Image]:  # fmt: skip
    """One square image per caption by both halves, from noise that depends on its place only."""
    pair = PanGuDrawPipeline(
        structure=networks["structure"],
        texture=networks["texture"],
        vae=load_autoencoder(recipe.autoencoder),
        scheduler=sampler(recipe.schedule),
        tokenizer=None,
        text_encoder=None,
        contracts={role: contract.model_dump(mode="json") for role, contract in contracts.items()},
    )
    pair.to(device)
    side = contracts["structure"].resolution
    trajectory = pair.start(
        subject.condition,
        height=side,
        width=side,
        num_inference_steps=recipe.sampling.num_inference_steps,
        guidance_scale=recipe.sampling.guidance_scale,
        generators=noise_sources(recipe.seed, subject),
    )
    return list(pair.decode(clean_latents(pair.finish(trajectory))))


def draw_alone(
    recipe: Recipe, network: Any, contract: GeneratorContract, subject: Subject, device: torch.device
) -> list[Image.Image]:
    """One image per caption by a generator for all timesteps, from noise that depends on its place only.

    Of a `ControlledUNet` each is drawn under its control image; both come in turn, the control image first.
    """
    scheduler = fresh_scheduler(sampler(recipe.schedule), recipe.sampling.num_inference_steps)
    trajectory = Trajectory(
        latents_bchw=first_noise(recipe.seed, network, contract, subject).to(device) * noise_scale(scheduler),
        timesteps=scheduler.timesteps,
        step=0,
        scheduler=scheduler,
        condition=replace(subject.condition.to(device), guidance_scale=recipe.sampling.guidance_scale),
    )
    shown = None if subject.control_nchw is None else subject.control_nchw.to(device)

    def predict(noisy: Tensor, timestep: Tensor, tokens: Tensor, pooled: Tensor) -> Tensor:
        control = None if shown is None else {"control_bchw": shown.repeat(len(noisy) // len(shown), 1, 1, 1)}
        return denoise(network, noisy, timestep.to(device), tokens, pooled, subject.preset, control=control)

    clean = clean_latents(walk(SamplingState(DenoiserModel(predict), trajectory)).trajectory)
    drawn = pictures_of(decode_latents(load_autoencoder(recipe.autoencoder).to(device), clean))
    if shown is None:
        return drawn
    return [image for both in zip(pictures_of(2 * shown - 1), drawn, strict=True) for image in both]


def first_noise(seed: int, network: Any, contract: GeneratorContract, subject: Subject) -> Tensor:
    """(N, C, h, w) unit noise in the network's latents, at the subject's preset."""
    (height, width), factor = presets_of(contract)[subject.preset], contract.spatial_factor
    sources = noise_sources(seed, subject)
    shape = len(sources), latent_channels(network), height // factor, width // factor
    return unit_noise(shape, sources, torch.device("cpu"))


def noise_sources(seed: int, subject: Subject) -> list[torch.Generator]:
    """One for each caption."""
    return [torch.Generator().manual_seed(seed + place) for place in range(len(subject.condition.prompt["tokens"]))]


def pictures_of(pixels_nchw: Tensor) -> list[Image.Image]:
    """Pictures from (N, 3, H, W) in [-1, 1]."""
    return VaeImageProcessor().postprocess(pixels_nchw.float().cpu(), output_type="pil")
