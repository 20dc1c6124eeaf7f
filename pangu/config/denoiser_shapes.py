"""The shapes of denoisers, one class for each family of networks; those of another package come by an entry point.

Channels of latents and text follow from autoencoder and text encoders. What each family does stands in `pangu.models.families`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError, model_validator

from pangu.config.tree import Frozen
from pangu.plugins import brought

GROUP = "pangu.denoisers"
"""Entry points: name of a family -> its `DenoiserFamily` class."""


class DenoiserShape(Frozen):
    """What the shapes of all families have: the name of the family."""

    sees_images: ClassVar[bool] = False
    """Whether it can be conditioned on an image: on that of an earlier stage, or by a ControlNet."""

    family: str


class DenoiserConfig(DenoiserShape):
    """The shape of one generator's UNet."""

    sees_images = True

    # Left out always, so that the digests of recipes stay what they were.
    family: Literal["unet"] = Field("unet", exclude_if=lambda value: True)
    block_out_channels: tuple[int, ...] = (96, 160, 224)
    layers_per_block: int = Field(1, ge=1)
    attention: tuple[bool, ...] = Field((False, True, True), description="Per level: cross-attention blocks or not")
    transformer_layers_per_block: tuple[int, ...] = (1, 1, 1)
    attention_head_dim: int = Field(32, ge=1, description="Channels of one attention head")
    norm_num_groups: int = Field(32, ge=1)
    preset_embed_dim: int = Field(32, ge=2, description="Size of the sinusoidal embedding of the preset index")

    @model_validator(mode="after")
    def _levels_agree(self) -> "DenoiserConfig":
        levels = len(self.block_out_channels)
        if not levels == len(self.attention) == len(self.transformer_layers_per_block):
            raise ValueError("block_out_channels, attention and transformer_layers_per_block need one entry per level")
        return self


class TransformerShape(DenoiserShape):
    """What the shapes of transformers have in common, in diffusers' names."""

    num_layers: int = Field(6, ge=1)
    num_attention_heads: int = Field(4, ge=1)
    attention_head_dim: int = Field(32, ge=2, description="Channels of one attention head")

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.num_attention_heads * self.attention_head_dim


class SD3Shape(TransformerShape):
    """Stable Diffusion 3 and 3.5: MMDiT (arXiv 2403.03206)."""

    family: Literal["sd3"] = "sd3"
    patch_size: int = Field(2, ge=1, description="Latents per side of one token")
    sample_size: int = Field(16, ge=1, description="Latents per side at which neighbouring tokens are 1 apart")
    pos_embed_max_size: int = Field(32, ge=1, description="Most tokens per side")
    qk_norm: Literal["rms_norm"] | None = Field("rms_norm", description="3.5 has it, 3 does not")
    dual_attention_layers: tuple[int, ...] = Field((), description="Layers with a second attention, as 3.5 medium has")


class PixArtShape(TransformerShape):
    """PixArt-alpha and -Sigma (arXiv 2310.00426)."""

    family: Literal["pixart"] = "pixart"
    patch_size: int = Field(2, ge=1, description="Latents per side of one token")
    sample_size: int = Field(16, ge=1, description="Latents per side of which the positions are those of the table")
    use_additional_conditions: bool = Field(
        False, description="Tell it height, width and their ratio, as alpha at 1024 px"
    )

    @model_validator(mode="after")
    def _sizes_can_be_told(self) -> "PixArtShape":
        if self.use_additional_conditions and self.width % 3:
            raise ValueError(
                f"use_additional_conditions needs heads times head channels, {self.width}, to be a multiple of 3"
            )
        return self


class SanaShape(TransformerShape):
    """SANA (arXiv 2410.10629): linear attention, convolutions in the feed-forward layers, no positions."""

    family: Literal["sana"] = "sana"
    patch_size: int = Field(1, ge=1, description="Latents per side of one token")
    num_cross_attention_heads: int = Field(4, ge=1)
    mlp_ratio: float = Field(2.5, gt=0)
    qk_norm: Literal["rms_norm_across_heads"] | None = None

    @model_validator(mode="after")
    def _heads_divide(self) -> "SanaShape":
        if self.width % self.num_cross_attention_heads:
            raise ValueError(f"num_cross_attention_heads must divide heads times head channels, {self.width}")
        return self


class RotaryShape(TransformerShape):
    """Transformers that are told positions by rotating queries and keys (arXiv 2104.09864)."""

    axes_dims_rope: tuple[int, int, int] = Field(
        (8, 12, 12), description="Of a head's channels, how many turn with kind or frame, row and column of a token"
    )

    @model_validator(mode="after")
    def _axes_fill_a_head(self) -> "RotaryShape":
        if sum(self.axes_dims_rope) != self.attention_head_dim or any(size % 2 for size in self.axes_dims_rope):
            raise ValueError(
                f"axes_dims_rope must be three even numbers that sum to attention_head_dim, {self.attention_head_dim}"
            )
        return self


class FluxShape(RotaryShape):
    """FLUX.1: double blocks, then single ones."""

    family: Literal["flux"] = "flux"
    num_layers: int = Field(2, ge=1, description="Blocks with weights of their own for text and image")
    num_single_layers: int = Field(4, ge=1, description="Blocks that both share")


class QwenImageShape(RotaryShape):
    """Qwen-Image: FLUX's double blocks alone."""

    family: Literal["qwen_image"] = "qwen_image"


class ZImageShape(RotaryShape):
    """Z-Image: blocks that text and image share, behind refiners of each."""

    family: Literal["z_image"] = "z_image"
    num_refiner_layers: int = Field(1, ge=1, description="Blocks of the text, and of the image, before both meet")


class WanShape(TransformerShape):
    """Wan 2.1 and 2.2, one frame of them."""

    family: Literal["wan"] = "wan"
    ffn_dim: int = Field(512, ge=1, description="Channels within the feed-forward layers")


SHAPES: dict[str, type[DenoiserShape]] = {
    "unet": DenoiserConfig,
    "sd3": SD3Shape,
    "pixart": PixArtShape,
    "sana": SanaShape,
    "flux": FluxShape,
    "qwen_image": QwenImageShape,
    "z_image": ZImageShape,
    "wan": WanShape,
}
"""Those of the package."""


def brought_family(name: str) -> Any:
    """The `DenoiserFamily` class of that name which another package brings.

    Raises:
        UserError: there is none, or it can not be imported.
    """
    return brought(GROUP, "denoiser family", name, SHAPES)


def _by_family(value: Any) -> Any:
    """The shape that a mapping means, by its `family`; a UNet's where it names none."""
    if not isinstance(value, Mapping):
        return value
    name = str(value.get("family", "unet"))
    shape = SHAPES.get(name) or brought_family(name).shape
    try:
        return shape.model_validate(dict(value))
    except ValidationError as error:
        first = error.errors()[0]
        reason = str(first["msg"]).removeprefix("Value error, ")
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"denoiser of family {name}: {where + ': ' if where else ''}{reason}") from error


AnyDenoiser = Annotated[SerializeAsAny[DenoiserShape], BeforeValidator(_by_family)]
"""The shape of any family, read from its own fields."""
