"""PanGu-Draw's own pair, whose expert changes at the boundary inside the cooperation, and a single generator of ours."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from pangu.config import ROLES, Role
from pangu.diffusion.interval import expert_at
from pangu.diffusion.presets import nearest_of
from pangu.diffusion.trajectory import Trajectory, predict
from pangu.errors import UserError
from pangu.models.controlnet import ControlledUNet
from pangu.models.denoisers import denoise
from pangu.models.schedulers import check_halves, check_schedule
from pangu.pipelines import pair_inputs, step_callback
from pangu.pipelines.coop.adapters.control_inputs import control_pictures, control_scales
from pangu.pipelines.coop.adapters.latent import LatentAdapter
from pangu.pipelines.coop.levels import Sampler
from pangu.pipelines.coop.model_adapter import Condition, GenerationRequest, Tensors, check_parts
from pangu.pipelines.schedules import check_own_schedule


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
        return ROLES

    @property
    def network(self) -> Any:
        return self.pipe.generator(self.roles[0])

    @property
    def networks(self) -> list[Any]:
        return [self.pipe.generator(role) for role in self.roles]

    @property
    def channels(self) -> int:
        return int(self.network.config.out_channels)

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
        facts = {"presets": presets, "said": said}
        # The pair's own rule of guidance, styles included, runs as one batch inside `network_call`.
        return Condition({}, False, request.guidance_scale, True, facts)

    def network_call(self, noisy_bchw: Tensor, timestep: Tensor, tensors: Tensors, condition: Condition) -> Tensor:
        role = self.expert(float(timestep))
        unet, contract = self.asked(role), self.pipe.contract(role)
        preset = condition.facts["presets"][role]
        height, width = pair_inputs.presets_of(contract)[preset]
        native = height // contract.spatial_factor, width // contract.spatial_factor

        def ask(noisy: Tensor, timestep_b: Tensor, tokens: Tensor, pooled: Tensor) -> Tensor:
            texts = tokens.to(unet.dtype), pooled.to(unet.dtype)
            control = self.control(condition, len(noisy))
            return denoise(
                unet, noisy, self.there(timestep_b), *texts, preset, native_size=native, control=control
            ).float()

        here = Trajectory(
            latents_bchw=noisy_bchw,
            timesteps=timestep.reshape(1),
            step=0,
            scheduler=None,
            conditioning=condition.facts["said"],
            guidance_scale=condition.guidance_scale,
            presets=condition.facts["presets"],
            guidance_rescale=condition.guidance_rescale,
        )
        return predict(ask, noisy_bchw, here)

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
        elif self.roles == ROLES:
            check_halves(found.scheduler, self.pipe.boundary)
        return found

    def embeds(self, condition: Condition) -> dict[str, Tensor]:
        facts = condition.facts
        return step_callback.embeds(facts["said"], condition.guidance_scale > 1, facts["presets"][self.roles[0]])

    def with_embeds(self, condition: Condition, answer: Mapping[str, Any]) -> Condition:
        said = step_callback.with_embeds(condition.facts["said"], condition.facts["presets"][self.roles[0]], answer)
        return replace(condition, facts={**condition.facts, "said": said})

    def reguided(self, condition: Condition, scale: float) -> Condition:
        return replace(condition, guidance_scale=scale)

    def expert(self, timestep: float) -> Role:
        """Which generator is asked."""
        return expert_at(timestep, self.pipe.boundary)

    def asked(self, role: Role) -> Any:
        """The network that answers for a role."""
        return self.pipe.generator(role)

    def control(self, condition: Condition, count: int) -> Mapping[str, Any] | None:
        """What the network is controlled by, for `count` entries: the images, once for each part of the guidance."""
        return None


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

    def expert(self, timestep: float) -> Role:
        return self.roles[0]

    def asked(self, role: Role) -> Any:
        unet, controlnet = self.pipe.unet, self.pipe.controlnet
        return unet if controlnet is None else ControlledUNet(unet, controlnet)

    def condition(self, request: GenerationRequest) -> Condition:
        plain = super().condition(request)
        if self.pipe.controlnet is None:
            return plain
        shown = control_pictures(self, request)[0]
        facts = {"shown": shown, "scale": control_scales(self, request)[0]}
        return replace(plain, facts={**plain.facts, **facts})

    def control(self, condition: Condition, count: int) -> Mapping[str, Any] | None:
        if self.pipe.controlnet is None:
            return None
        shown = condition.facts["shown"]
        repeated = shown.repeat(count // len(shown), 1, 1, 1)
        return {"control_bchw": repeated, "conditioning_scale": condition.facts["scale"]}
