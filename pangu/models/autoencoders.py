"""The autoencoder between pixels and latents: any of diffusers' image autoencoders, used through three functions.

Pixels are (B, 3, H, W) in [-1, 1]. Latents are scaled for diffusion: latents = (raw - shift) * scaling, or channel by channel
(raw - mean) * scaling / std where the autoencoder's configuration has `latents_mean` and `latents_std`.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pangu.config import AutoencoderSource
from pangu.errors import NotFinite, UserError
from pangu.models.hashing import architecture, weights_hash
from pangu.models.sources import locate
from pangu.models.whereabouts import dtype_of

if TYPE_CHECKING:
    from diffusers import ModelMixin


class _Classes(Mapping[Any, Any]):
    """Name -> class of diffusers, which is imported when one is asked for: whoever loads none is spared its seconds."""

    names = ("AutoencoderDC", "AutoencoderKL", "AutoencoderKLQwenImage", "AutoencoderKLWan", "AutoencoderTiny")

    def __getitem__(self, name: Any) -> Any:
        if name not in self.names:
            raise KeyError(name)
        import diffusers

        return getattr(diffusers, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


CLASSES = _Classes()
"""The image autoencoders that are known."""
OF_FRAMES = ("AutoencoderKLQwenImage", "AutoencoderKLWan")
"""Those of videos, to which an image is one frame."""


def load_autoencoder(source: AutoencoderSource) -> "ModelMixin":
    """The frozen autoencoder, in float32 and evaluation mode.

    Raises:
        UserError: nothing is at the source, or it is of a kind that is not an image autoencoder.
    """
    place = locate(source.source, "autoencoder")
    arguments: dict[str, Any] = {"subfolder": source.subfolder} if source.subfolder else {}
    try:
        name = CLASSES["AutoencoderKL"].load_config(place, **arguments).get("_class_name")
    except OSError as error:
        raise UserError(f"There is no autoencoder at '{source.source}': {str(error).splitlines()[0]}") from error
    if name not in CLASSES:
        raise UserError(f"'{source.source}' is a {name}; supported autoencoders are {', '.join(sorted(CLASSES))}.")
    autoencoder = CLASSES[name].from_pretrained(place, torch_dtype=torch.float32, use_safetensors=True, **arguments)
    frozen: ModelMixin = autoencoder.eval().requires_grad_(False)
    return frozen


def scaling(autoencoder: "ModelMixin") -> tuple[float, float]:
    """(scaling, shift) of the latents, as the autoencoder's configuration gives them."""
    config = autoencoder.config
    return float(config.get("scaling_factor") or 1.0), float(config.get("shift_factor") or 0.0)


def spatial_factor(autoencoder: "ModelMixin") -> int:
    """Pixels per latent along one side."""
    if type(autoencoder).__name__ in OF_FRAMES:
        return 2 ** (len(autoencoder.config["dim_mult"]) - 1)
    channels = autoencoder.config.get("encoder_block_out_channels") or autoencoder.config["block_out_channels"]
    return 2 ** (len(channels) - 1)


def latent_channels(autoencoder: "ModelMixin") -> int:
    """Of its latents."""
    return int(autoencoder.config.get("latent_channels") or autoencoder.config["z_dim"])


def encode_pixels(autoencoder: "ModelMixin", pixels_bchw: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> scaled latents (B, C, H / factor, W / factor); the mode where the encoder is a distribution."""
    return scaled(autoencoder, raw_latents(autoencoder, pixels_bchw.to(autoencoder.dtype)))


def raw_latents(autoencoder: "ModelMixin", pixels_bchw: Tensor) -> Tensor:
    """What the encoder makes of (B, 3, H, W) in its own dtype, not yet scaled."""
    frames = type(autoencoder).__name__ in OF_FRAMES
    encoded = autoencoder.encode(pixels_bchw[:, :, None] if frames else pixels_bchw)
    for name in ("latent_dist", "latent", "latents"):
        if hasattr(encoded, name):
            value = getattr(encoded, name)
            value = value.mode() if name == "latent_dist" else value
            return value[:, :, 0] if frames else value
    raise UserError(f"{type(autoencoder).__name__} returns no latents.")


def scaled(autoencoder: "ModelMixin", raw_bchw: Tensor) -> Tensor:
    """Latents for diffusion, of those that the encoder makes."""
    (scale, shift), mean, std = scaling(autoencoder), *_channel_statistics(autoencoder, raw_bchw)
    return (raw_bchw - shift) * scale if mean is None or std is None else (raw_bchw - mean) * scale / std


def unscaled(autoencoder: "ModelMixin", latents_bchw: Tensor) -> Tensor:
    """The inverse of `scaled`."""
    (scale, shift), mean, std = scaling(autoencoder), *_channel_statistics(autoencoder, latents_bchw)
    return latents_bchw / scale + shift if mean is None or std is None else latents_bchw * std / scale + mean


def _channel_statistics(autoencoder: "ModelMixin", like: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """(mean, std), each (1, C, 1, 1); None where the configuration has none."""
    given = [autoencoder.config.get(name) for name in ("latents_mean", "latents_std")]
    mean, std = (None if values is None else like.new_tensor(values).view(1, -1, 1, 1) for values in given)
    return mean, std


def decode_latents(autoencoder: "ModelMixin", latents_bchw: Tensor) -> Tensor:
    """Scaled latents -> (B, 3, H, W), clamped to [-1, 1].

    Raises:
        NotFinite: the latents, or what the autoencoder makes of them, hold infinities or NaN.
    """
    raw = unscaled(autoencoder, latents_bchw.to(dtype_of(autoencoder)))
    frames = type(autoencoder).__name__ in OF_FRAMES
    pixels = autoencoder.decode(raw[:, :, None] if frames else raw, return_dict=False)[0]
    pixels = pixels[:, :, 0] if frames else pixels
    check_finite(pixels, latents_bchw)
    return pixels.clamp(-1, 1)


def check_finite(pixels_bchw: Tensor, latents_bchw: Tensor) -> None:
    """Raises NotFinite if pixels that were decoded from latents are infinite or NaN; to bytes they would be black."""
    if bool(pixels_bchw.isfinite().all()):
        return
    if bool(latents_bchw.isfinite().all()):
        raise NotFinite(
            f"The autoencoder makes pixels that are not finite of finite latents, as some do in {str(pixels_bchw.dtype)[6:]}; "
            f"load it in float32."
        )
    raise NotFinite(
        "The sampler ended in latents that are not finite, so there is no image; check the weights, their dtype, the scheduler, "
        "and the noise and guidance that were given."
    )


def autoencoder_hash(autoencoder: "ModelMixin") -> str:
    """Content hash that keys encoded datasets and stands in every contract."""
    return weights_hash(autoencoder, architecture(autoencoder.config))
