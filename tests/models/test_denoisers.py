"""Each kind of UNet is asked in its own way, and a lower image comes in on the channels."""

import pytest
import torch

from pangu.errors import UserError
from pangu.models.denoisers import build_denoiser, condition_of, denoise
from pangu.recipes import tiny
from tests import subtests
from tests.models.unets import sdxl_unet, stable_diffusion_unet


def inputs(batch: int = 2, channels: int = 4, height: int = 8, width: int = 8) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    noisy = torch.randn(batch, channels, height, width, generator=g)
    return noisy, torch.full((batch,), 7), torch.randn(batch, 5, 24, generator=g), torch.randn(batch, 12, generator=g)


def ids_of(unet, **arguments) -> torch.Tensor:
    """The numbers that the UNet was told."""
    seen: list[torch.Tensor] = []
    hook = unet.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["added_cond_kwargs"]["time_ids"]), with_kwargs=True
    )
    with torch.no_grad():
        denoise(unet, *inputs(), **arguments)
    hook.remove()
    return seen[0]


@torch.no_grad()
def test_stable_diffusion_sees_only_the_tokens() -> None:
    unet = stable_diffusion_unet()
    noisy, timestep, tokens, pooled = inputs()
    plain = unet(noisy, timestep, tokens).sample
    assert torch.equal(denoise(unet, noisy, timestep, tokens, pooled, preset=3), plain)
    assert torch.equal(denoise(unet, noisy, timestep, tokens, pooled * 2, preset=0), plain)


@torch.no_grad()
def test_sdxl_is_told_original_size_crop_and_target_size_in_pixels() -> None:
    unet = sdxl_unet()
    assert ids_of(unet, preset=3).tolist() == [[64, 64, 0, 0, 64, 64]] * 2
    assert ids_of(unet, preset=3, native_size=(128, 96)).tolist() == [[1024, 768, 0, 0, 1024, 768]] * 2
    noisy, timestep, tokens, pooled = inputs()
    added = {"text_embeds": pooled, "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2)}
    plain = unet(noisy, timestep, tokens, added_cond_kwargs=added).sample
    assert torch.equal(denoise(unet, noisy, timestep, tokens, pooled, preset=0), plain)


def test_ours_is_told_the_index_of_the_preset() -> None:
    unet = build_denoiser(tiny().denoiser, 4, 24, 12)
    assert ids_of(unet, preset=3).tolist() == [[3], [3]]


def test_a_lower_image_takes_as_many_channels_again() -> None:
    unet = build_denoiser(tiny().denoiser, 4, 24, 12, lower=True)
    assert (unet.config.in_channels, unet.config.out_channels) == (8, 4)
    noisy, *text = inputs()
    with torch.no_grad():
        first, second = (denoise(unet, noisy, *text, 0, lower_bchw=lower) for lower in (noisy * 0, noisy))
    assert first.shape == noisy.shape
    assert not torch.equal(first, second)


@subtests.parametrize(
    ("unet", "pooled", "sentence"),
    [
        (lambda: sdxl_unet(pooled=12), 22, "does not fit pooled text of 22 channels"),
        (lambda: sdxl_unet(pooled=4), 14, "does not fit pooled text of 14"),
        (lambda: stable_diffusion_unet(num_class_embeds=10), 12, "num_class_embeds = 10; a text-to-image UNet"),
    ],
)
def test_what_text_and_size_do_not_give_is_refused(unet, pooled, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        condition_of(unet().config, pooled)
