"""PanGu-Draw's own pair, whose expert changes at the boundary inside the cooperation, and a single generator of ours."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from pangu.config import Role
from pangu.diffusion.presets import nearest_of
from pangu.errors import UserError
from pangu.models.controlnet import ControlledUNet
from pangu.models.denoisers import denoise, latent_channels
from pangu.models.schedulers import check_schedule
from pangu.pipelines import step_callback
from pangu.pipelines.coop.adapters.control_inputs import control_pictures, control_scales
from pangu.pipelines.coop.adapters.latent import LatentAdapter
from pangu.pipelines.coop.model_adapter import GenerationRequest, ModelAdapter, check_parts
from pangu.pipelines.generator_model import GeneratorModel
from pangu.pipelines.schedules import check_own_schedule
from pangu.sampling.condition import Condition, Style, Tensors
from pangu.sampling.levels import Sampler
from pangu.sampling.question import Question


class PanGuDraw(LatentAdapter):
    """`PanGuDrawPipeline`."""

    extras = ("styles",)

    def check(self) -> None:
        missing = [role for role in self.roles if self.pipe.generator(role) is None]
        if missing:
            raise UserError(f"{self.name} was loaded without its {missing[0]} generator; load the whole pair.")
        check_schedule(self.pipe.scheduler, self.pipe.reference.schedule)
        if self.vae is None:
            raise UserError(
                f"{self.name} has no autoencoder (vae), so no bridge leads to its latents; load it with one."
            )
        check_parts(self)

    @property
    def roles(self) -> tuple[Role, ...]:
        return tuple(self.pipe.roles)

    @property
    def network(self) -> Any:
        return self.pipe.generator(self.roles[0])

    @property
    def networks(self) -> list[Any]:
        return [self.pipe.generator(role) for role in self.roles]

    @property
    def channels(self) -> int:
        return latent_channels(self.network)

    @property
    def default_size(self) -> tuple[int, int]:
        resolution = self.pipe.resolution
        return resolution, resolution

    def check_size(self, height: int, width: int) -> None:
        if (height, width) not in self.pipe.sizes:
            near = self.pipe.sizes[nearest_of(height, width, self.pipe.sizes)]
            raise UserError(
                f"{self.name} has no preset of {height}x{width} (height x width); its nearest is {near[0]}x{near[1]}."
            )

    def condition(self, request: GenerationRequest) -> Condition:
        styles = request.extra.get("styles")
        said = self.pipe.encode_prompt(request.prompts, request.negatives, styles)
        said = said.repeat(request.images_per_prompt).to(self.device)
        presets = {role: self.pipe.preset_for(role, request.height, request.width) for role in self.roles}
        return replace(
            said,
            guidance_scale=request.guidance_scale,
            batched=request.batched_guidance,
            facts={"presets": presets},
        )

    def question(self, noisy_bchw: Tensor, timestep_b: Tensor, tensors: Tensors, condition: Condition) -> Question:
        """One call of the generator that owns the timestep, shared with whatever else asks this pair."""
        if self.offloaded:
            return super().question(noisy_bchw, timestep_b, tensors, condition)
        return GeneratorModel(self.pipe).question(noisy_bchw.to(self.device), timestep_b, tensors, condition)

    def network_call(self, noisy_bchw: Tensor, timestep: Tensor, tensors: Tensors, condition: Condition) -> Tensor:
        asked = GeneratorModel(self.pipe).question(noisy_bchw, timestep, tensors, condition)
        return asked.network.set_up()(*asked.inputs)

    def sampler(
        self,
        steps: int,
        height: int,
        width: int,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
    ) -> Sampler:
        found = super().sampler(steps, height, width, timesteps, sigmas)
        if timesteps is not None or sigmas is not None:
            check_own_schedule(found.scheduler.timesteps, {role: self.pipe.contract(role) for role in self.roles})
        elif len(self.roles) > 1:
            self.pipe.check_steps(found.scheduler)
        return found

    def timestep_arguments(self, steps: int, height: int, width: int) -> dict[str, Any]:
        return self.pipe.timestep_arguments(*self.latent_size(height, width))

    def embeds(self, condition: Condition) -> dict[str, Tensor]:
        return step_callback.embeds(condition, condition.facts["presets"][self.roles[0]])

    def with_embeds(self, condition: Condition, answer: Mapping[str, Any]) -> Condition:
        return step_callback.with_embeds(condition, answer, condition.facts["presets"][self.roles[0]])


class SingleGenerator(PanGuDraw):
    """`SingleStage`: one generator for all timesteps, with a ControlNet (arXiv 2302.05543) or without."""

    def check(self) -> None:
        super().check()
        if hasattr(self.pipe.controlnet, "nets"):
            raise UserError(f"{self.name} is a SingleStage, which takes one ControlNet, not several.")

    @property
    def roles(self) -> tuple[Role, ...]:
        return (self.pipe.role,)

    @property
    def networks(self) -> list[Any]:
        return [part for part in (self.pipe.unet, self.pipe.controlnet) if part is not None]

    def condition(self, request: GenerationRequest) -> Condition:
        plain = super().condition(request)
        if self.pipe.controlnet is None:
            return plain
        shown = {"control": control_pictures(self, request)[0]}
        facts = {**plain.facts, "scale": control_scales(self, request)[0]}
        styles = tuple(Style(style.prompt | shown, style.scale) for style in plain.styles)
        assert plain.negative is not None
        return replace(plain, prompt=plain.prompt | shown, negative=plain.negative | shown, styles=styles, facts=facts)

    def question(self, noisy_bchw: Tensor, timestep_b: Tensor, tensors: Tensors, condition: Condition) -> Question:
        if self.pipe.controlnet is None:
            return super().question(noisy_bchw, timestep_b, tensors, condition)
        return ModelAdapter.question(self, noisy_bchw, timestep_b, tensors, condition)

    def shared(self, condition: Condition) -> Hashable:
        return condition.facts["presets"][self.pipe.role], condition.facts["scale"]

    def network_call(self, noisy_bchw: Tensor, timestep: Tensor, tensors: Tensors, condition: Condition) -> Tensor:
        """As the generator alone, with what its ControlNet adds."""
        pipe, preset = self.pipe, condition.facts["presets"][self.pipe.role]
        height, width = pipe.sizes[preset]
        factor = pipe.reference.spatial_factor
        return denoise(
            ControlledUNet(pipe.unet, pipe.controlnet),
            noisy_bchw,
            self.there(timestep),
            tensors["tokens"].to(self.dtype),
            tensors["pooled"].to(self.dtype),
            preset,
            native_size=(height // factor, width // factor),
            control={"control_bchw": tensors["control"], "conditioning_scale": condition.facts["scale"]},
        )
