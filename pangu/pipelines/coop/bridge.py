"""The bridge between two models' clean latents: decode, change the size of pixels where asked to, encode.

Only clean estimates cross it. Resizing noisy samples would correlate neighbouring noise (PanGu-Draw, Fig. 3a). Models that share
an autoencoder and a size need no bridge.
"""

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, mse_loss

from pangu.data.prepare.upscale import make_upscaler, resize, upscale_to
from pangu.errors import UserError
from pangu.models.autoencoders import check_finite
from pangu.models.hashing import architecture
from pangu.pipelines.coop.model_adapter import ModelAdapter

UPSAMPLERS = ("bilinear", "lanczos", "spanx2", "spanx4")
LARGEST_STRETCH = 0.02
"""How far aspect ratios of the two sides may differ: the rounding to whole latents, and no visible distortion."""
WORST_ROUNDTRIP_DB = 25.0
"""Below this a bridge loses strokes and hues that people see; the embedded autoencoder reaches 34 dB on its drawings."""


@dataclass(frozen=True)
class Side:
    """One end of a bridge: a model, the size of its pictures in px, and the autoencoder that stands in for its own."""

    adapter: ModelAdapter
    height: int
    width: int
    vae: Any = None

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    def shape(self, images: int) -> tuple[int, int, int, int]:
        """(B, C, h, w) of its latents."""
        return (images, self.adapter.channels, *self.adapter.latent_size(self.height, self.width))

    def pixels(self, latents_bchw: Tensor) -> Tensor:
        return self.adapter.to_pixels(latents_bchw, self.vae)

    def latents(self, pixels_bchw: Tensor) -> Tensor:
        return self.adapter.to_latents(pixels_bchw, self.vae)


@dataclass(frozen=True)
class Bridge:
    """Both ways between the main model and one partner. shared: their latents are the same, and nothing is decoded."""

    main: Side
    partner: Side
    upsample: str | None
    shared: bool
    _crossed: list[tuple[Tensor, Tensor]] = field(default_factory=list, repr=False, compare=False)
    """The largest values of pixels that crossed, and of the latents that they were decoded from."""

    def to_main(self, clean_bchw: Tensor) -> Tensor:
        """z0_tilde = E(D'(z0'_hat)) (PanGu-Draw, Algorithm 1, line 2)."""
        return self._cross(clean_bchw, self.partner, self.main)

    def to_partner(self, clean_bchw: Tensor) -> Tensor:
        """E'(D(z0)), the same with the roles exchanged (line 6)."""
        return self._cross(clean_bchw, self.main, self.partner)

    def _cross(self, clean_bchw: Tensor, start: Side, end: Side) -> Tensor:
        if self.shared:
            return clean_bchw
        pixels = start.pixels(clean_bchw)
        self._crossed.append((pixels.abs().amax(), clean_bchw.abs().amax()))
        crossed = end.latents(resize_pixels(pixels, end.size, self.upsample))
        return crossed.to(end.adapter.device)

    def check(self) -> None:
        """Whether all that crossed since the last check was finite; reading that waits for the device, so it is done rarely.

        Raises:
            NotFinite: it was not.
        """
        crossed = self._crossed.copy()
        self._crossed.clear()
        for pixels, latents in crossed:
            check_finite(pixels, latents)


def bridge_between(main: Side, partner: Side, upsample: str | None) -> Bridge:
    """The bridge of two sides.

    Raises:
        UserError: a size that a model can not draw, or two sizes without a way to resize.
    """
    for side in (main, partner):
        side.adapter.check_size(*side.size)
    who = partner.adapter.name
    if upsample is not None and upsample not in UPSAMPLERS:
        raise UserError(f"{who}: upsample must be one of {', '.join(UPSAMPLERS)}, not '{upsample}'.")
    if partner.size != main.size:
        if upsample is None:
            raise UserError(
                f"{who} draws {partner.height}x{partner.width}, but the main model {main.height}x{main.width} (height x "
                f"width); give upsample=... ({', '.join(UPSAMPLERS)}) or one size."
            )
        stretch = abs(partner.height * main.width / (partner.width * main.height) - 1)
        if stretch > LARGEST_STRETCH:
            raise UserError(
                f"{who} draws {partner.height}x{partner.width}, which would be distorted to the main model's {main.height}x"
                f"{main.width} (height x width); give it the same aspect ratio."
            )
    shared = partner.size == main.size and same_space(main.adapter, partner.adapter)
    return Bridge(main, partner, upsample, shared)


def same_space(one: ModelAdapter, other: ModelAdapter) -> bool:
    """Whether the clean latents of two models mean the same: both are pixels, or their autoencoders are equal."""
    if one.vae is None or other.vae is None:
        return one.vae is other.vae and one.channels == other.channels
    return same_autoencoder(one.vae, other.vae)


def same_autoencoder(one: Any, other: Any) -> bool:
    """Whether two autoencoders give the same numbers: one object, or the same configuration and weights."""
    if one is other:
        return True
    if type(one) is not type(other) or architecture(one.config) != architecture(other.config):
        return False
    ours, theirs = _weights(one), _weights(other)
    return all(torch.equal(weight.cpu(), theirs[name].cpu()) for name, weight in ours.items())


def _weights(model: Any) -> dict[str, Tensor]:
    """The weights of a model, also of one whose layers wait elsewhere (meta tensors) because it is offloaded."""
    weights: dict[str, Tensor] = model.state_dict()
    if any(weight.is_meta for weight in weights.values()):
        from accelerate.utils.modeling import get_state_dict_offloaded_model

        weights = get_state_dict_offloaded_model(model)
    return weights


def resize_pixels(pixels_bchw: Tensor, size: tuple[int, int], how: str | None) -> Tensor:
    """(B, 3, H, W) in [-1, 1] at another (height, width); smaller ones are always averaged, which needs no choice."""
    found = (pixels_bchw.shape[2], pixels_bchw.shape[3])
    if found == size:
        return pixels_bchw
    if size[0] <= found[0] and size[1] <= found[1]:
        return interpolate(pixels_bchw, size, mode="bilinear", antialias=True)
    if how in (None, "bilinear"):
        return interpolate(pixels_bchw, size, mode="bilinear")
    bytes_bhwc = ((pixels_bchw.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    enlarged = np.stack([_enlarged(image, size, str(how)) for image in bytes_bhwc])
    return torch.from_numpy(enlarged).permute(0, 3, 1, 2).to(pixels_bchw) / 127.5 - 1


def _enlarged(image_hwc: np.ndarray, size: tuple[int, int], how: str) -> np.ndarray:
    height, width = size
    if how == "lanczos":
        return resize(image_hwc, width, height)
    enlarged, _ = upscale_to(image_hwc, min(size), make_upscaler(how))  # type: ignore[arg-type]
    return enlarged if enlarged.shape[:2] == size else resize(enlarged, width, height)


@dataclass(frozen=True)
class BridgePsnr:
    """What a bridge loses, as the peak signal-to-noise ratio of pictures that crossed it, dB.

    to_main: the partner's pictures as the main model's latents hold them (D' -> E). to_partner: the way back (D -> E').
    """

    to_main: float
    to_partner: float

    @property
    def worst(self) -> float:
        return min(self.to_main, self.to_partner)


@torch.inference_mode()
def roundtrip_error(bridge: Bridge, pixels_bchw: Tensor) -> BridgePsnr:
    """Send pictures, (B, 3, H, W) in [-1, 1] at the main's size, across and back; infinite where nothing is lost."""
    if bridge.shared:
        return BridgePsnr(float("inf"), float("inf"))
    there = bridge.partner.latents(resize_pixels(pixels_bchw, bridge.partner.size, bridge.upsample))
    here = bridge.main.latents(pixels_bchw)
    found = BridgePsnr(
        to_main=_seen_through(bridge.partner, there, bridge.main, bridge.to_main(there), bridge.upsample),
        to_partner=_seen_through(bridge.main, here, bridge.partner, bridge.to_partner(here), bridge.upsample),
    )
    bridge.check()
    return found


def checked_roundtrip(bridge: Bridge, pixels_bchw: Tensor) -> BridgePsnr:
    """`roundtrip_error`, with a warning where the bridge loses too much."""
    found = roundtrip_error(bridge, pixels_bchw)
    if found.worst < WORST_ROUNDTRIP_DB:
        warnings.warn(
            f"The bridge to {bridge.partner.adapter.name} keeps only {found.worst:.1f} dB of these pictures, where "
            f"{WORST_ROUNDTRIP_DB:g} dB are fair; details it draws will not arrive.",
            stacklevel=3,
        )
    return found


def _seen_through(start: Side, clean: Tensor, end: Side, crossed: Tensor, upsample: str | None) -> float:
    """The picture before and after, compared at the end's size."""
    before = resize_pixels(start.pixels(clean), end.size, upsample).clamp(-1, 1)
    return psnr(before, end.pixels(crossed).to(before.device).clamp(-1, 1))


def psnr(one_bchw: Tensor, other_bchw: Tensor) -> float:
    """Peak signal-to-noise ratio of pictures in [-1, 1], dB."""
    error = float(mse_loss(one_bchw, other_bchw))
    return float("inf") if error == 0 else 10 * float(np.log10(4 / error))
