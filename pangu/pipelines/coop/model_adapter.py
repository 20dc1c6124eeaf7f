"""What every model must be able to do to cooperate, and what all of them share.

One class a family: its condition, one call of its network at a continuous timestep, and the way between latents and pixels. Owns
no loop, no guidance and no fusion.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from pangu.errors import UserError
from pangu.models.schedulers import check_timesteps, copied
from pangu.models.whereabouts import dtype_of, execution_device
from pangu.pipelines.schedules import check_falling, set_timesteps
from pangu.pipelines.step_callback import embeds, with_embeds
from pangu.sampling.condition import Condition, Tensors
from pangu.sampling.levels import Sampler, TrainedLevels, trained_levels
from pangu.sampling.question import Network, Question


@dataclass(frozen=True)
class GenerationRequest:
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


class ModelAdapter(ABC):
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
    def condition(self, request: GenerationRequest) -> Condition:
        """Prompts, images and sizes as tensors.

        Raises:
            UserError: something is missing, or does not fit.
        """

    @abstractmethod
    def network_call(self, noisy_bchw: Tensor, timestep: Tensor, tensors: Tensors, condition: Condition) -> Tensor:
        """What the network answers, (B, C or more, H, W); the channels after C are not part of the prediction.

        timestep: (B,) float32, on the CPU, where it is looked at; `there` brings it to the network.
        """

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
    def denoisers(self) -> list[Any]:
        """The networks that predict; ControlNets only help them."""
        controlnet = getattr(self.pipe, "controlnet", None)
        return [part for part in self.networks if part is not controlnet]

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
        return self.device_at_work if self.offloaded else execution_device(self.pipe)

    @property
    def dtype(self) -> torch.dtype:
        return dtype_of(self.network)

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

    def sampler(
        self,
        steps: int,
        height: int,
        width: int,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
    ) -> Sampler:
        """A fresh scheduler of this model's own kind over `steps` steps, or over a given schedule; the pipeline's stays as it is.

        Raises:
            UserError: the scheduler takes no such schedule.
        """
        scheduler = copied(self.pipe.scheduler)
        arguments = self.timestep_arguments(steps, height, width)
        set_timesteps(scheduler, steps, "cpu", timesteps, sigmas, arguments)
        if timesteps is not None or sigmas is not None:
            check_falling(scheduler.timesteps)
            check_timesteps(scheduler)
            steps = math.ceil(len(scheduler.timesteps) / getattr(scheduler, "order", 1))
        return Sampler(scheduler, steps, self.name)

    def timestep_arguments(self, steps: int, height: int, width: int) -> dict[str, Any]:
        """What `set_timesteps` of this adapter takes beside the number of steps."""
        return {}

    def embeds(self, condition: Condition) -> dict[str, Tensor]:
        """What a callback may see of the condition, by the names and in the layout of diffusers' Stable Diffusion XL."""
        return embeds(condition)

    def with_embeds(self, condition: Condition, answer: Mapping[str, Any]) -> Condition:
        """The condition with what a callback returned.

        Raises:
            UserError: a tensor of another shape.
        """
        return with_embeds(condition, answer)

    def reguided(self, condition: Condition, scale: float) -> Condition:
        """The condition under another guidance scale; at most 1 means the prompts alone.

        Raises:
            UserError: the call began without negative prompts.
        """
        if scale > 1 and condition.negative is None:
            raise UserError(f"{self.name} was asked without guidance, which can not be switched on under way.")
        return replace(condition, guidance_scale=scale)

    def told(self, prompt: Tensors, negative: Tensors | None, request: GenerationRequest) -> Condition:
        """The condition of a request from the tensors of its prompts and, under guidance, of its negative prompts."""
        return Condition(prompt, negative, guidance_scale=request.guidance_scale, batched=request.batched_guidance)

    def shared(self, condition: Condition) -> Hashable:
        """What an answer depends on beside the tensors of the condition; requests for which it is equal may share a call."""
        return id(condition.facts) if condition.facts else None

    def question(self, noisy_bchw: Tensor, timestep_b: Tensor, tensors: Tensors, condition: Condition) -> Question:
        """One call of the network (see `pangu.sampling.question.Model`)."""
        leaves, structure = tree_flatten(tensors)

        def denoise(noisy: Tensor, timestep: Tensor, *rest: Tensor) -> Tensor:
            own = tree_unflatten(list(rest), structure)
            with self.at_work():
                return self.network_call(noisy.to(self.device, self.dtype), timestep, own, condition).float()

        key = type(self), str(structure), self.shared(condition)
        network = Network(id(self.network), None, key, lambda: denoise)
        return Question(network, (noisy_bchw, timestep_b, *leaves))

    def expert(self, timestep: float) -> str:
        """Which of the networks of a pipeline of experts is asked at this timestep."""
        owner: str = self.pipe.expert_at(timestep)
        return owner

    def there(self, timestep: Tensor) -> Tensor:
        """The timestep on the device of the networks, without waiting for it."""
        return timestep.to(self.device, non_blocking=True)

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


def check_parts(adapter: ModelAdapter) -> None:
    """Raises UserError if a pipeline's parts lie on several devices, or networks and text encoder hold several dtypes.

    An autoencoder may have a dtype of its own: what crosses the bridge is cast.
    """
    together = [*adapter.networks, getattr(adapter.pipe, "text_encoder", None)]
    for kind, parts in (("device", [*together, adapter.vae]), ("dtype", together)):
        found = {str(getattr(part, kind)) for part in parts if part is not None}
        if len(found) > 1:
            raise UserError(
                f"{adapter.name} has parts of {kind} {' and '.join(sorted(found))}; move it to one with `.to(...)`."
            )
