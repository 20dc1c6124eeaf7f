"""What the platform must know of a class of networks to train it, draw with it and plan for it.

A package brings a family of its own as an entry point of the group `pangu.denoisers`; docs/models.md has an example.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pangu.config import DenoiserShape
from pangu.errors import UserError

PIXELS_PER_LATENT = 8
"""Of the autoencoders whose networks are told sizes in pixels."""


MASKED = "reads_no_padding"
"""In the configuration of a network: tokens of zeros are padding, and masked. diffusers' classes know nothing of it."""
TOLD_GUIDANCE = "told_guidance"
"""In the configuration of a network that was distilled to be told a scale of guidance: which, where a call says no other."""


@dataclass(frozen=True)
class DenoiserInput:
    """One question to a denoiser.

    noisy_bchw: (B, C, H, W); timestep_b: (B,) whole or float32, in [0, T]; tokens_bsc: (B, S, c); pooled_bp: (B, P).
    preset:       index of the resolution preset of the whole batch.
    mask_bs:      (B, S), 1 where a token is read; None: all are. SD3 and FLUX always read all, as in diffusers' pipelines.
    lower_bchw:   (B, C, H, W) latents of the upsampled image of an earlier stage.
    native_size:  (height, width) in latents that networks are told which are told a size; None: that of `noisy_bchw`.
    guidance_b:   (B,) float32, the scale of guidance that distilled networks are told.
    control:      for a `ControlledUNet`: its `control_bchw` and, where it is not 1, `conditioning_scale`.
    attention:    what diffusers' networks pass on to their attention processors.
    """

    noisy_bchw: Tensor
    timestep_b: Tensor
    tokens_bsc: Tensor
    pooled_bp: Tensor
    preset: int = 0
    mask_bs: Tensor | None = None
    lower_bchw: Tensor | None = None
    native_size: tuple[int, int] | None = None
    guidance_b: Tensor | None = None
    control: Mapping[str, Any] | None = None
    attention: Mapping[str, Any] | None = None

    @property
    def told_size(self) -> tuple[int, int]:
        """(height, width) in latents."""
        return self.native_size or (self.noisy_bchw.shape[2], self.noisy_bchw.shape[3])


class DenoiserFamily(ABC):
    """One class of networks. `config` below is that of a network of diffusers, or what its `config.json` holds."""

    name: ClassVar[str]
    part: ClassVar[str] = "transformer"
    """Of diffusers' pipelines, where such a network lies."""
    shape: ClassVar[type[DenoiserShape]]
    """The fields of `denoiser` in a recipe."""
    network_class: ClassVar[str]
    """Of diffusers; a family of another package overrides `network_type` too where diffusers has no such class."""
    label: ClassVar[str] = "transformer"
    """What sentences call the network."""
    blocks: ClassVar[tuple[str, ...]]
    """Classes of the blocks that hold nearly all operations: each compiles itself."""
    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    """Layers that adapters take where a recipe names no others; none where diffusers' class takes no adapters."""
    size_told: ClassVar[str] = "nothing"
    """How the resolution preset reaches the network, in a few words."""
    attention_argument: ClassVar[str] = "attention_kwargs"
    """What the class calls that which goes to its attention processors."""

    @property
    def network_type(self) -> Any:
        import diffusers

        return getattr(diffusers, self.network_class)

    @abstractmethod
    def arguments(self, shape: Any, latent_channels: int, context: int, pooled: int) -> dict[str, Any]:
        """Of the class, for latents of `latent_channels` and text of (`context`, `pooled`) channels."""

    @abstractmethod
    def call(self, network: Any, config: Any, asked: DenoiserInput) -> Tensor:
        """The network's prediction, (B, C, H, W)."""

    def mask_of(self, config: Any, asked: DenoiserInput) -> Tensor | None:
        """(B, S), 1 where a token is read: as asked; of networks that read no padding (`MASKED`), where it is not all zeros."""
        if asked.mask_bs is not None or not config.get(MASKED):
            return asked.mask_bs
        return (asked.tokens_bsc != 0).any(-1).to(asked.tokens_bsc.dtype)

    def guidance_of(self, config: Any, asked: DenoiserInput) -> Tensor | None:
        """(B,) float32, the scale that a distilled network is told: as asked, or its usual one; None for all others."""
        usual = config.get(TOLD_GUIDANCE)
        if asked.guidance_b is not None or usual is None:
            return asked.guidance_b
        return torch.full((len(asked.noisy_bchw),), float(usual), device=asked.noisy_bchw.device)

    @abstractmethod
    def text_channels(self, config: Any) -> int:
        """Of the text tokens."""

    def build(self, shape: Any, latent_channels: int, context: int, pooled: int, lower: bool = False) -> Any:
        """A freshly initialised network; with `lower`, it sees the image of an earlier stage beside the noisy latents.

        Raises:
            UserError: the family has no place for that image.
        """
        if lower:
            raise UserError(
                f"A denoiser of family {self.name} has no place for the image of an earlier stage; use unet."
            )
        return self.network_type(**self.arguments(shape, latent_channels, context, pooled))

    def predict(self, network: Any, asked: DenoiserInput) -> Tensor:
        """One prediction (B, C, H, W), checked for its size.

        Raises:
            UserError: latents of a size that the network can not draw.
        """
        config = config_of(network)
        self.check_size(config, *asked.noisy_bchw.shape[2:])
        return self.call(network, config, asked)

    def unused_modules(self, network: Any) -> list[nn.Module]:
        """Parts whose output goes nowhere: no gradient reaches them, and they are not trained."""
        return []

    def latent_channels(self, config: Any) -> int:
        """Of the latents that it takes and predicts."""
        return int(config["in_channels"])

    def pooled_channels(self, config: Any) -> int | None:
        """Of the pooled text; None where it is not read, or the configuration does not say."""
        return None

    def sees_pooled(self, config: Any) -> bool:
        """Whether the pooled text is read."""
        return self.pooled_channels(config) is not None

    def size_step(self, config: Any) -> int:
        """Heights and widths of latents must be multiples of this."""
        return int(config.get("patch_size") or 1)

    def largest_size(self, config: Any) -> int | None:
        """Most latents per side, if there is a limit."""
        return None

    def check_size(self, config: Any, height: int, width: int) -> None:
        """Raises UserError if latents of height x width can not be drawn."""
        step, most = self.size_step(config), self.largest_size(config)
        if height % step or width % step:
            raise UserError(
                f"A denoiser of family {self.name} draws latents in multiples of {step}, not {height} x {width}."
            )
        if most is not None and max(height, width) > most:
            raise UserError(
                f"A denoiser of family {self.name} draws at most {most} x {most} latents here, not {height} x {width}."
            )

    def check_latents(self, config: Any, latent_channels: int, lower: bool, name: str) -> None:
        """Raises UserError if the network at `name` was trained on latents of other channels."""
        if (theirs := self.latent_channels(config)) != latent_channels:
            raise UserError(
                f"init_from: {name} takes latents of {theirs} channels, but the autoencoder has {latent_channels}; use the "
                f"autoencoder that it was trained with, or set new_latents."
            )

    def with_new_latents(self, network: Any, latent_channels: int, lower: bool, seed: int) -> Any:
        """The same network between a fresh first and a fresh last layer, drawn from `seed`, for latents of other channels."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = type(network).from_config(dict(network.config) | self.latent_arguments(latent_channels))
        shapes = {name: tensor.shape for name, tensor in fresh.state_dict().items()}
        kept = {name: tensor for name, tensor in network.state_dict().items() if tensor.shape == shapes[name]}
        fresh.load_state_dict(kept, strict=False)
        return fresh

    def latent_arguments(self, latent_channels: int) -> dict[str, Any]:
        """Those arguments of the class that depend on the latents."""
        return {"in_channels": latent_channels, "out_channels": latent_channels}

    def check_text(self, config: Any, context: int, pooled: int, name: str) -> None:
        """Raises UserError if the network at `name` was trained with text of other channels, or nobody says which scale of
        guidance it is told."""
        if config.get("guidance_embeds") and config.get(TOLD_GUIDANCE) is None:
            raise UserError(
                f"init_from: {name} was distilled to be told a guidance scale (guidance_embeds), and nobody says which; open "
                f"it by `pangu import`, which writes it down (--told-guidance)."
            )
        pairs = (("text", self.text_channels(config), context), ("pooled text", self.pooled_channels(config), pooled))
        for what, theirs, ours in pairs:
            if theirs is not None and theirs != ours:
                raise UserError(
                    f"init_from: {name} attends to {theirs} channels of {what}, but the text encoders give {ours}; use the text "
                    f"encoders that it was trained with."
                )

    def attention(self, asked: DenoiserInput) -> dict[str, Any]:
        """The argument for the attention processors, where there is any."""
        return {self.attention_argument: dict(asked.attention)} if asked.attention else {}


def config_of(network: Any) -> Any:
    """The configuration of a network, which DistributedDataParallel hides."""
    return getattr(network, "module", network).config


@contextmanager
def exact_timestep(embedder: nn.Module, timestep_b: Tensor) -> Iterator[None]:
    """Within it, the embedder of a network that rounds its timestep to its weights' dtype is told `timestep_b`, (B,) float32.

    bf16 holds 8 bits: it would make 999.25 a 1000.
    """
    hook = embedder.register_forward_pre_hook(lambda _, given: (timestep_b, *given[1:]))
    try:
        yield
    finally:
        hook.remove()
