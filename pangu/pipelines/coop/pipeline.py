"""`CoopPipeline`: any diffusers pipelines in one denoising process, called like one of them.

Owns the arguments that users know from diffusers; `nested` owns what is asked of each pipeline, `saving` the folder. What is
computed lives in `pangu.sampling`, `handoff` and `bridge`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from torch import Tensor

from pangu.data.images import opened_rgb
from pangu.errors import UserError
from pangu.models.autoencoders import check_finite
from pangu.pipelines import pair_inputs
from pangu.pipelines.coop import build, call_counts
from pangu.pipelines.coop.bridge import BridgePsnr, Side, bridge_between, checked_roundtrip
from pangu.pipelines.coop.call_counts import CallCounts
from pangu.pipelines.coop.coop_callback import OFFERED, CoopCallback
from pangu.pipelines.coop.coop_inputs import CoopInputs, changed_partners
from pangu.pipelines.coop.cooperators import Cooperators
from pangu.pipelines.coop.handoff import carried_over
from pangu.pipelines.coop.low_resolution import LowStage, low_stage
from pangu.sampling.levels import Sampler
from pangu.sampling.question import Networks, answered
from pangu.sampling.sampling_state import SamplingState
from pangu.sampling.sampling_step import clean_estimate, walk


class CoopPipeline(Cooperators):
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
        UserError: a model is missing something, or belongs to no adapter that can cooperate; the sentence names it.
    """

    _callback_tensor_inputs = list(OFFERED)  # noqa: RUF012 (diffusers reads this name from the class)

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
        callback_on_step_end: pair_inputs.Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        image: Any = None,
        conditioning_scale: float | list[float] = 1.0,
        extra: Mapping[str, Any] | None = None,
        partners: Sequence[Mapping[str, Any]] | None = None,
        handoff: Mapping[str, Any] | None = None,
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        guidance_rescale: float = 0.0,
    ) -> Any:
        """Pictures of the main model; the arguments are those of diffusers' pipelines.

        `image`, `conditioning_scale` and `extra` are the main's, as a partner has its own. `partners` and `handoff` change fields
        for this call: `coop("fox", partners=[{"strength": 0.3, "image": edges}])`. `timesteps` or `sigmas` stand in for those
        of the main's scheduler.

        Raises:
            UserError: an argument is out of its range, or does not fit a model; the sentence names it.
        """
        names = pair_inputs.callback_tensors(
            callback_on_step_end, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs
        )
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
            timesteps=timesteps,
            sigmas=sigmas,
            guidance_rescale=guidance_rescale,
        )
        self._begin_call(guidance_scale, guidance_rescale)
        state = self._begin(request)
        self._num_timesteps = calls = len(state.trajectory.timesteps)
        with self.progress_bar(total=calls - state.first) as bar:
            called = CoopCallback(self, self.models.main, bar, callback_on_step_end, names)
            walk(state, lambda _: not self.interrupt, called)
        result = self._output(state.trajectory.latents_bchw, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=result) if return_dict else (result,)

    @torch.no_grad()
    def begin(self, prompt: str | list[str] | None = None, **arguments: Any) -> SamplingState:
        """Everybody before the first call, for whoever walks step by step; the arguments are those of a call, but for callbacks.

        Raises:
            UserError: as a call does.
        """
        request = self._request(prompt, **arguments)
        self._begin_call(request.guidance_scale, request.guidance_rescale)
        return self._begin(request)

    @torch.no_grad()
    def plan(self, prompt: str | list[str] | None = None, *, measure: bool = True, **arguments: Any) -> CallCounts:
        """What a call with these arguments will cost, before it runs.

        measure: run each part twice to say seconds too; otherwise only calls, decodes and encodes are counted.
        """
        arguments.setdefault("num_inference_steps", 30)
        output_type = arguments.pop("output_type", "pil")
        request = self._request(prompt, **arguments, output_type=output_type)
        request, sampler = self._sampler(request)
        first, total, latents, over = 0, CallCounts(seconds=0.0 if measure else None), None, CallCounts()
        if request.handoff is not None:
            low = self._low_stage(request, sampler)
            over = call_counts.crossing_plan(low.bridge.partner, low.bridge.main, 0 if low.bridge.shared else 1)
            counted = call_counts.count(low.state, low.bridge.partner, low.until) + CallCounts(decodes=over.decodes)
            total += call_counts.timed(counted, low.state, low.bridge.partner) if measure else counted
            first, shape = low.first, low.bridge.main.shape(request.images)
            latents = torch.zeros(shape, device=self.models.main.device)
        state, main = (
            build.cooperation(self.models, request, sampler, first, latents),
            build.main_side(self.models, request),
        )
        counted = call_counts.count(state, main) + CallCounts(encodes=over.encodes)
        if output_type != "latent" and self.models.main.vae is not None:
            counted += CallCounts({}, {self.models.main.name: 1}, {})
        return total + (call_counts.timed(counted, state, main) if measure else counted)

    @torch.no_grad()
    def roundtrip_error(self, images: Any, upsample: str | None = None) -> dict[str, BridgePsnr]:
        """What each bridge loses of these pictures, dB by the partner's name; warns of one that loses too much.

        images: PIL images, arrays (B, H, W, 3) in [0, 1], or a tensor (B, 3, H, W) in [0, 1], at a size the main model can draw.
        """
        pixels = self.image_processor.preprocess(opened_rgb(images)).to(self.models.main.device)
        height, width = pixels.shape[2:]
        main, found = Side(self.models.main, height, width, self.models.main_vae), {}
        for adapter, partner in zip(self.models.partners, self.partners, strict=True):
            side = Side(adapter, partner.height or height, partner.width or width, partner.bridge_vae)
            found[adapter.name] = checked_roundtrip(bridge_between(main, side, upsample or partner.upsample), pixels)
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
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        guidance_rescale: float = 0.0,
    ) -> CoopInputs:
        numbers = num_inference_steps, guidance_scale, num_images_per_prompt
        # Models that take no prompt are asked with the empty one.
        prompts, negatives = pair_inputs.check(prompt, negative_prompt, *numbers, output_type, guidance_rescale)
        if handoff is not None and self.handoff is None:
            raise UserError("handoff changes a hand-off, but this CoopPipeline was made without one.")
        default = self.models.main.default_size
        return CoopInputs(
            prompts,
            negatives,
            height or default[0],
            width or default[1],
            num_inference_steps,
            guidance_scale,
            num_images_per_prompt,
            changed_partners(self.partners, partners),
            None if self.handoff is None else self.handoff.changed(handoff or {}),
            pair_inputs.generators(generator, len(prompts) * num_images_per_prompt),
            latents,
            image,
            conditioning_scale,
            dict(extra or {}),
            self.batched_guidance,
            guidance_rescale,
            timesteps,
            sigmas,
        )

    def _sampler(self, request: CoopInputs) -> tuple[CoopInputs, Sampler]:
        """The main's sampler, and the request with as many steps as it takes."""
        self.models.main.check_size(request.height, request.width)
        asked = request.num_inference_steps, request.height, request.width
        sampler = self.models.main.sampler(*asked, request.timesteps, request.sigmas)
        return replace(request, num_inference_steps=sampler.num_inference_steps), sampler

    def _begin(self, request: CoopInputs) -> SamplingState:
        """The main model and its partners at their first call: in noise, or where the low-resolution model stopped."""
        request, sampler = self._sampler(request)
        if request.handoff is None:
            return build.cooperation(self.models, request, sampler, 0, None)
        low = self._low_stage(request, sampler)
        with self.progress_bar(total=low.until) as bar:
            called = CoopCallback(self, low.bridge.partner.adapter, bar, None, ())
            walk(low.state, lambda state: state.trajectory.step < low.until and not self.interrupt, called)
        estimate = answered(clean_estimate(low.state), Networks())
        latents = carried_over(estimate, low.bridge, sampler, low.first, request.generators)
        return build.cooperation(self.models, request, sampler, low.first, latents)

    def _low_stage(self, request: CoopInputs, sampler: Sampler) -> LowStage:
        assert self.low is not None
        own = self.low
        return low_stage(self.models, request, sampler, own.models, own.partners, own.batched_guidance)

    def _output(self, clean_bchw: Tensor, output_type: str) -> Any:
        if output_type == "latent":
            return clean_bchw
        pixels = self.models.main.to_pixels(clean_bchw)
        check_finite(pixels, clean_bchw)
        return self.image_processor.postprocess(pixels.clamp(-1, 1), output_type=output_type)
