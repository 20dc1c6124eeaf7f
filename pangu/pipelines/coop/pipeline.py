"""`CoopPipeline`: any diffusers pipelines in one denoising process, called like one of them.

Owns the conventions that users know from diffusers. What is computed lives in `walk`, `handoff` and `bridge`.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from torch import Tensor

from pangu.data.images import opened_rgb
from pangu.errors import UserError
from pangu.models.autoencoders import check_finite
from pangu.pipelines import inputs
from pangu.pipelines.coop import build, plan
from pangu.pipelines.coop.bridge import WORST_ROUNDTRIP_DB, RoundTrip, Side, bridge_between, roundtrip_error
from pangu.pipelines.coop.families import family_of
from pangu.pipelines.coop.family import Family
from pangu.pipelines.coop.handoff import Handoff, carried_over
from pangu.pipelines.coop.levels import Sampler
from pangu.pipelines.coop.loading import load_pipeline
from pangu.pipelines.coop.partner import Partner, names_of
from pangu.pipelines.coop.plan import Plan
from pangu.pipelines.coop.request import Request, changed_partners
from pangu.pipelines.coop.stages import LowStage, low_stage
from pangu.pipelines.coop.walk import Cooperation
from pangu.pipelines.coop.watch import OFFERED, Watch


class CoopPipeline:
    """Pretrained models of different latent spaces and resolutions in one denoising process, without training.

    Coop-Diffusion is PanGu-Draw, Section 3.4 and Algorithm 1.

    Args:
        main: the model whose latents end as the picture: a diffusers pipeline, or a folder or hub id of one.
        partners: the models that help it; a bare pipeline or source is a `Partner` with the defaults.
        handoff: a low-resolution model that begins, where wanted.
        controlnet: ControlNet(s) to put on the main model.
        bridge_vae: a smaller autoencoder of the main's latents for the bridges; the picture itself is decoded by the main's own.
        batched_guidance: ask for the prompt and the negative prompt in one batch; False takes two calls, and half the memory.
        torch_dtype: of what is loaded here.

    Raises:
        UserError: a model is missing something, or belongs to no family that can cooperate; the sentence names it.
    """

    _callback_tensor_inputs = OFFERED
    progress_bar = DiffusionPipeline.progress_bar
    set_progress_bar_config = DiffusionPipeline.set_progress_bar_config

    def __init__(
        self,
        main: Any,
        partners: Any = (),
        handoff: Handoff | None = None,
        *,
        controlnet: Any = None,
        bridge_vae: Any = None,
        batched_guidance: bool = True,
        torch_dtype: torch.dtype | None = None,
    ) -> None:
        several = partners if isinstance(partners, (list, tuple)) else [partners]
        self.partners = tuple(partner if isinstance(partner, Partner) else Partner(partner) for partner in several)
        family = family_of(load_pipeline(main, controlnet, torch_dtype), "main")
        others = tuple(
            family_of(load_pipeline(partner.source, partner.controlnet, torch_dtype), name)
            for partner, name in zip(self.partners, names_of(self.partners), strict=True)
        )
        self.models = build.Models(family, others, bridge_vae)
        self.handoff, self.batched_guidance = handoff, batched_guidance
        self.low: CoopPipeline | None = None
        if handoff is not None:
            given = isinstance(handoff.low, CoopPipeline)
            self.low = handoff.low if given else CoopPipeline(handoff.low, torch_dtype=torch_dtype)
            self.low.rename("low")
        self._check_devices()

    @property
    def main(self) -> Any:
        """The main model's diffusers pipeline."""
        return self.models.main.pipe

    @property
    def families(self) -> list[Family]:
        """The adapters of all models, the main one first."""
        return [self.models.main, *self.models.partners]

    def rename(self, prefix: str) -> None:
        """Names for a cooperation inside another one."""
        self.models.main.name = prefix
        for family, name in zip(self.models.partners, names_of(self.partners), strict=True):
            family.name = f"{prefix} {name}"

    def to(self, *args: Any, **kwargs: Any) -> "CoopPipeline":
        """Move every model to a device, or to a dtype, as `DiffusionPipeline.to` does."""
        for family in self.families:
            family.pipe.to(*args, **kwargs)
        for vae in (self.models.main_vae, *(partner.bridge_vae for partner in self.partners)):
            if vae is not None:
                vae.to(*args, **kwargs)
        if self.low is not None:
            self.low.to(*args, **kwargs)
        return self

    def offload_partners(self, offload: bool = True) -> None:
        """Keep the networks of partners on the CPU while they are idle; each prediction moves them there and back."""
        for family in self.models.partners:
            family.device_at_work = self.models.main.device
            family.offloaded = offload
            for part in family.networks:
                part.to("cpu" if offload else family.device_at_work)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 30,
        guidance_scale: float = 5.0,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: inputs.Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        image: Any = None,
        conditioning_scale: float | list[float] = 1.0,
        extra: Mapping[str, Any] | None = None,
        partners: Sequence[Mapping[str, Any]] | None = None,
        handoff: Mapping[str, Any] | None = None,
    ) -> Any:
        """Pictures of the main model; the arguments are those of diffusers' pipelines.

        `image`, `conditioning_scale` and `extra` are the main's, as a partner has its own. `partners` and `handoff` change fields
        for this call: `coop("a fox", partners=[{"strength": 0.3, "image": edges}])`.

        Raises:
            UserError: an argument is out of its range, or does not fit a model; the sentence names it.
        """
        inputs.check_callback_tensors(callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        request = self._request(
            prompt,
            negative_prompt,
            height,
            width,
            num_inference_steps,
            guidance_scale,
            num_images_per_prompt,
            generator=generator,
            latents=latents,
            output_type=output_type,
            image=image,
            conditioning_scale=conditioning_scale,
            extra=extra,
            partners=partners,
            handoff=handoff,
        )
        cooperation = self._begin(request)
        with self.progress_bar(total=cooperation.sampler.calls - cooperation.first) as bar:
            watch = Watch(self, bar, callback_on_step_end, callback_on_step_end_tensor_inputs)
            cooperation.on_call = watch
            clean = cooperation.run()
        result = self._output(clean, output_type)
        for family in self.families:
            family.pipe.maybe_free_model_hooks()
        return ImagePipelineOutput(images=result) if return_dict else (result,)

    @torch.no_grad()
    def plan(self, prompt: str | list[str] | None = None, *, measure: bool = True, **arguments: Any) -> Plan:
        """What a call with these arguments will cost, before it runs.

        measure: run each part twice to say seconds too; otherwise only calls, decodes and encodes are counted.
        """
        arguments.setdefault("num_inference_steps", 30)
        output_type = arguments.pop("output_type", "pil")
        request = self._request(prompt, **arguments, output_type=output_type)
        sampler = self._sampler(request)
        first, total, latents, over = 0, Plan(seconds=0.0 if measure else None), None, Plan()
        if request.handoff is not None:
            low = self._low_stage(request, sampler)
            over = plan.crossing_plan(low.bridge.partner, low.bridge.main, 0 if low.bridge.shared else 1)
            counted = plan.count(low.cooperation, low.until) + Plan(decodes=over.decodes)
            total += plan.timed(counted, low.cooperation) if measure else counted
            first, shape = low.first, low.bridge.main.shape(request.images)
            latents = torch.zeros(shape, device=self.models.main.device)
        cooperation = build.cooperation(self.models, request, sampler, first, latents)
        counted = plan.count(cooperation) + Plan(encodes=over.encodes)
        if output_type != "latent" and self.models.main.vae is not None:
            counted += Plan({}, {self.models.main.name: 1}, {})
        return total + (plan.timed(counted, cooperation) if measure else counted)

    @torch.no_grad()
    def roundtrip_error(self, images: Any, upsample: str | None = None) -> dict[str, RoundTrip]:
        """What each bridge loses of these pictures, dB by the partner's name; warns of one that loses too much.

        images: PIL images, arrays (B, H, W, 3) in [0, 1], or a tensor (B, 3, H, W) in [0, 1], at a size the main model can draw.
        """
        pixels = VaeImageProcessor(vae_scale_factor=1).preprocess(opened_rgb(images)).to(self.models.main.device)
        height, width = pixels.shape[2:]
        found: dict[str, RoundTrip] = {}
        main = Side(self.models.main, height, width, self.models.main_vae)
        for family, partner in zip(self.models.partners, self.partners, strict=True):
            side = Side(family, partner.height or height, partner.width or width, partner.bridge_vae)
            found[family.name] = roundtrip_error(bridge_between(main, side, upsample or partner.upsample), pixels)
            if found[family.name].worst < WORST_ROUNDTRIP_DB:
                warnings.warn(
                    f"The bridge to {family.name} keeps only {found[family.name].worst:.1f} dB of these pictures, where "
                    f"{WORST_ROUNDTRIP_DB:g} dB are fair; details it draws will not arrive.",
                    stacklevel=2,
                )
        return found

    def _request(
        self,
        prompt: str | list[str] | None,
        negative_prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 30,
        guidance_scale: float = 5.0,
        num_images_per_prompt: int = 1,
        *,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        image: Any = None,
        conditioning_scale: float | list[float] = 1.0,
        extra: Mapping[str, Any] | None = None,
        partners: Sequence[Mapping[str, Any]] | None = None,
        handoff: Mapping[str, Any] | None = None,
    ) -> Request:
        numbers = num_inference_steps, guidance_scale, num_images_per_prompt
        # Models that take no prompt are asked with the empty one.
        prompts, negatives = inputs.check("" if prompt is None else prompt, negative_prompt, *numbers, output_type)
        if handoff is not None and self.handoff is None:
            raise UserError("handoff changes a hand-off, but this CoopPipeline was made without one.")
        default = self.models.main.default_size
        return Request(
            prompts,
            negatives,
            height or default[0],
            width or default[1],
            num_inference_steps,
            guidance_scale,
            num_images_per_prompt,
            changed_partners(self.partners, partners),
            None if self.handoff is None else self.handoff.changed(handoff or {}),
            inputs.generators(generator, len(prompts) * num_images_per_prompt),
            latents,
            image,
            conditioning_scale,
            dict(extra or {}),
            self.batched_guidance,
        )

    def _sampler(self, request: Request) -> Sampler:
        self.models.main.check_size(request.height, request.width)
        return self.models.main.sampler(request.num_inference_steps, request.height, request.width)

    def _begin(self, request: Request) -> Cooperation:
        """The main model and its partners at their first call: in noise, or where the low-resolution model stopped."""
        sampler = self._sampler(request)
        if request.handoff is None:
            return build.cooperation(self.models, request, sampler, 0, None)
        low = self._low_stage(request, sampler)
        with self.progress_bar(total=low.until) as bar:
            low.cooperation.on_call = lambda _: bar.update()
            low.cooperation.run(low.until)
        latents = carried_over(low.cooperation.estimate(), low.bridge, sampler, low.first, request.generators)
        return build.cooperation(self.models, request, sampler, low.first, latents)

    def _low_stage(self, request: Request, sampler: Sampler) -> LowStage:
        assert self.low is not None
        own = self.low
        return low_stage(self.models, request, sampler, own.models, own.partners, own.batched_guidance)

    def _output(self, clean_bchw: Tensor, output_type: str) -> Any:
        if output_type == "latent":
            return clean_bchw
        pixels = self.models.main.to_pixels(clean_bchw)
        check_finite(pixels, clean_bchw)
        return VaeImageProcessor(vae_scale_factor=1).postprocess(pixels.clamp(-1, 1), output_type=output_type)

    def _check_devices(self) -> None:
        home = self.models.main.device
        for family in self.models.partners:
            if family.device != home:
                raise UserError(f"{family.name} is on {family.device}, but main on {home}; move both with `.to(...)`.")
