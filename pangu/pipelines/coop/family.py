"""What every family of models must be able to do to cooperate, and what all of them share.

A family is one small adapter around a diffusers pipeline: its condition, one guided prediction at a continuous timestep, and the
way between its latents and pixels. Owns no loop and no fusion.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from pangu.diffusion.guidance import classifier_free_guidance
from pangu.errors import UserError
from pangu.models.schedulers import fresh_scheduler
from pangu.pipelines.coop.levels import Sampler, TrainedLevels, trained_levels

Tensors = dict[str, Any]
"""Tensors, or lists and dictionaries of them, whose first dimension is the batch."""


@dataclass(frozen=True)
class Ask:
    """What one model is asked to draw: B = len(prompts) x images_per_prompt pictures of height x width px."""

    prompts: list[str]
    negatives: list[str] | None
    guidance_scale: float
    height: int
    width: int
    images_per_prompt: int = 1
    image: Any = None
    conditioning_scale: float | list[float] = 1.0
    batched_guidance: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> int:
        return len(self.prompts) * self.images_per_prompt


@dataclass(frozen=True)
class Condition:
    """An `Ask` as its network wants it. guided: tensors hold 2 B entries, those of the negative prompts first."""

    tensors: Tensors
    guided: bool
    guidance_scale: float
    batched: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        """Calls of the network for one prediction."""
        return 2 if self.guided and not self.batched else 1


class Family(ABC):
    """One model in a cooperation.

    Args:
        pipe: the diffusers pipeline.
        name: how sentences call it.

    Raises:
        UserError: the pipeline lacks something that cooperation needs.
    """

    network_name = "unet"
    extras: tuple[str, ...] = ()
    """The names that `Partner.extra` may hold."""
    device_at_work: torch.device = torch.device("cpu")
    """Where an offloaded partner computes."""

    def __init__(self, pipe: Any, name: str) -> None:
        self.pipe, self.name = pipe, name
        self.levels: TrainedLevels = trained_levels(pipe.scheduler, name)
        self.offloaded = False
        self.check()

    @abstractmethod
    def check(self) -> None:
        """Raises UserError if the pipeline's parts do not fit together."""

    @abstractmethod
    def condition(self, ask: Ask) -> Condition:
        """Prompts, images and sizes as tensors.

        Raises:
            UserError: something is missing, or does not fit.
        """

    @abstractmethod
    def network_call(self, noisy_bchw: Tensor, timestep: Tensor, tensors: Tensors, condition: Condition) -> Tensor:
        """What the network answers, (B, C or more, H, W); the channels after C are not part of the prediction."""

    @abstractmethod
    def to_pixels(self, latents_bchw: Tensor, vae: Any = None) -> Tensor:
        """Clean latents -> (B, 3, H, W) around [-1, 1], not clamped; `vae` stands in for the pipeline's own."""

    @abstractmethod
    def to_latents(self, pixels_bchw: Tensor, vae: Any = None) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> clean latents (B, C, h, w) as the network knows them."""

    @property
    @abstractmethod
    def pixels_per_latent(self) -> int: ...

    @property
    @abstractmethod
    def size_step(self) -> int:
        """Heights and widths must be multiples of this, px."""

    @property
    @abstractmethod
    def default_size(self) -> tuple[int, int]: ...

    @property
    def network(self) -> Any:
        return getattr(self.pipe, self.network_name)

    @property
    def networks(self) -> list[Any]:
        """All that a prediction needs; these are moved where the idle partner is offloaded."""
        parts = [self.network, getattr(self.pipe, "controlnet", None)]
        return [part for part in parts if part is not None]

    @property
    def channels(self) -> int:
        """Of the latents."""
        return int(self.network.config.in_channels)

    @property
    def vae(self) -> Any:
        """The autoencoder, or None for models of pixels."""
        return getattr(self.pipe, "vae", None)

    @property
    def device(self) -> torch.device:
        """Where it computes, also while its networks wait elsewhere."""
        return self.device_at_work if self.offloaded else torch.device(self.pipe._execution_device)

    @property
    def dtype(self) -> torch.dtype:
        return self.network.dtype

    def check_size(self, height: int, width: int) -> None:
        """Raises UserError if the model can not draw that size; the sentence names the nearest that it can."""
        step = self.size_step
        if height % step or width % step or min(height, width) < step:
            near = tuple(max(step, round(side / step) * step) for side in (height, width))
            raise UserError(
                f"{self.name} draws multiples of {step} px, not {height}x{width} (height x width); "
                f"{near[0]}x{near[1]} is near."
            )

    def check_extra(self, extra: Mapping[str, Any]) -> None:
        unknown = [name for name in extra if name not in self.extras]
        if unknown:
            known = ", ".join(self.extras) or "nothing"
            raise UserError(f"{self.name}: extra may name {known}, not '{unknown[0]}'.")

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        return height // self.pixels_per_latent, width // self.pixels_per_latent

    def sampler(self, steps: int, height: int, width: int) -> Sampler:
        """A fresh scheduler of this model's own kind over `steps` steps; the pipeline's stays as it is."""
        arguments = self.timestep_arguments(steps, height, width)
        scheduler = fresh_scheduler(self.pipe.scheduler, steps, self.device, **arguments)
        return Sampler(scheduler, steps, self.name)

    def timestep_arguments(self, steps: int, height: int, width: int) -> dict[str, Any]:
        """What `set_timesteps` of this family takes beside the number of steps."""
        return {}

    def predict(self, noisy_bchw: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """The guided answer of the network, float32, at a timestep that need not be an index.

        noisy_bchw: (B, C, H, W) in the scale that the network was trained with.
        """
        if not condition.guided:
            return self._answer(noisy_bchw, timestep, condition.tensors, condition)
        if condition.batched:
            both = self._answer(torch.cat([noisy_bchw] * 2), timestep, condition.tensors, condition).chunk(2)
        else:
            parts = [tree_map(lambda tensor, half=half: tensor.chunk(2)[half], condition.tensors) for half in (0, 1)]
            both = tuple(self._answer(noisy_bchw, timestep, part, condition) for part in parts)
        null, conditional = both
        kept = noisy_bchw.shape[1]
        guided = classifier_free_guidance(null[:, :kept], conditional[:, :kept], condition.guidance_scale)
        return torch.cat([guided, conditional[:, kept:]], dim=1) if conditional.shape[1] > kept else guided

    def _answer(self, noisy_bchw: Tensor, timestep: Tensor, tensors: Tensors, condition: Condition) -> Tensor:
        moved = noisy_bchw.to(self.device, self.dtype), timestep.to(self.device)
        return self.network_call(*moved, tensors, condition).float()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """The networks where they compute; an offloaded partner's wait on the CPU outside of this."""
        if not self.offloaded:
            yield
            return
        for part in self.networks:
            part.to(self.device_at_work)
        try:
            yield
        finally:
            for part in self.networks:
                part.to("cpu")


def check_images(image: Any, height: int, width: int, who: str, what: str) -> None:
    """Raises UserError if an image, or one of a batch, is not exactly height x width: nothing is silently resized."""
    found = image_size(image)
    if found is None:
        raise UserError(
            f"{who}: {what} must be a PIL image, an array, a tensor, or a list of them, not {type(image).__name__}."
        )
    if found != (height, width):
        raise UserError(
            f"{who}: {what} is {found[0]}x{found[1]} (height x width), but {height}x{width} is drawn; resize it first."
        )


def image_size(image: Any) -> tuple[int, int] | None:
    """(height, width) of a PIL image, an array with channels last, a tensor with channels first, or a list of them."""
    if isinstance(image, (list, tuple)):
        sizes = {image_size(entry) for entry in image}
        return sizes.pop() if len(sizes) == 1 else None
    if isinstance(image, Tensor) and image.ndim in (3, 4):
        return int(image.shape[-2]), int(image.shape[-1])
    if hasattr(image, "ndim") and hasattr(image, "shape") and image.ndim in (3, 4):
        return int(image.shape[-3]), int(image.shape[-2])
    if hasattr(image, "size") and isinstance(image.size, tuple):
        return image.size[1], image.size[0]
    return None


def check_parts(family: Family) -> None:
    """Raises UserError if a pipeline's parts lie on several devices, or networks and text encoder hold several dtypes.

    An autoencoder may have a dtype of its own: what crosses the bridge is cast.
    """
    together = [*family.networks, getattr(family.pipe, "text_encoder", None)]
    for kind, parts in (("device", [*together, family.vae]), ("dtype", together)):
        found = {str(getattr(part, kind)) for part in parts if part is not None}
        if len(found) > 1:
            raise UserError(
                f"{family.name} has parts of {kind} {' and '.join(sorted(found))}; move it to one with `.to(...)`."
            )
