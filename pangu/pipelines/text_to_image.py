"""What all text-to-image pipelines here share: text in, latents along one trajectory, images out.

Owns the arguments that users know from diffusers' pipelines.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from torch import Tensor

from pangu.config import ROLES, Role, Sampling
from pangu.errors import UserError
from pangu.models.autoencoders import decode_latents
from pangu.models.denoisers import family_of, text_channels
from pangu.models.half_steps import split_by_log_snr
from pangu.models.text import TextTower
from pangu.models.text_windows import reads_windows
from pangu.pipelines import encode_prompts, pair_inputs
from pangu.pipelines.generators import GeneratorPipeline
from pangu.sampling.condition import Condition

LongPrompts = Literal["cut", "windows"]


class TextToImagePipeline(GeneratorPipeline):
    """Text towers, autoencoder and scheduler around the generators of a subclass."""

    warns_of_text = True
    """Whether `encode_prompt` logs text that it cuts off and words that it does not know; a server tells its client instead."""

    @property
    def text_towers(self) -> list[TextTower]:
        towers = ((self.tokenizer, self.text_encoder), (self.tokenizer_2, self.text_encoder_2))
        ways = zip(self.config.hidden_layers, self.config.sees_padding, strict=False)
        return [
            TextTower(tokenizer, encoder, layer, sees_padding)
            for (tokenizer, encoder), (layer, sees_padding) in zip(towers, ways, strict=False)
            if encoder is not None
        ]

    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        styles: Mapping[str, float] | None = None,
        *,
        num_images_per_prompt: int = 1,
        device: torch.device | str | None = None,
        prompts: Mapping[Role, str | Sequence[str]] | None = None,
        long_prompts: LongPrompts = "cut",
    ) -> Condition:
        """What the text towers say of B prompts, also under the prefix of each style that has one and a scale other than 0.

        Unpacks in diffusers' order: `prompt, negative, pooled, negative_pooled = pipe.encode_prompt("fox")`.
        No negative prompts means the empty caption of the training. Text beyond `max_tokens` is not read; a warning says which,
        and another one which words are unknown where most of a text is.
        device: of the result; None means where it was computed. prompts: what single generators are told, where it differs.
        long_prompts: windows reads text beyond `max_tokens`, too, where encoders and networks can (`reads_windows`).

        Raises:
            UserError: as many negative prompts as prompts are needed, and styles and roles that the pipeline knows.
        """
        texts = pair_inputs.as_list(prompt)
        negatives = None if negative_prompt is None else pair_inputs.spread(negative_prompt, len(texts))
        known = dict(self.config.get("styles") or {})
        in_windows = long_prompts == "windows" and self.reads_windows
        common = replace(self._reader(), in_windows=in_windows)
        said = encode_prompts.from_text(common, texts, negatives, styles or {}, known, self.adapted_styles)
        own_texts = pair_inputs.prompts_of(prompts or {}, len(texts), self._contracts)
        own = {
            str(role): encode_prompts.from_text(
                replace(reader, in_windows=in_windows),
                self.worded(role, own_texts.get(role, texts)),
                negatives,
                styles or {},
                known,
                self.adapted_styles,
            ).text
            for role, reader in (dict.fromkeys(own_texts, common) | dict(self._own_readers())).items()
        }
        said = replace(said, texts=own).repeat(num_images_per_prompt)
        return said if device is None else said.to(device)

    @property
    def sampling(self) -> Sampling:
        """Steps and guidance that the pair was tuned with; the common defaults for a pair that does not say."""
        return Sampling.model_validate(self.config.get("sampling") or {})

    @property
    def styles(self) -> tuple[str, ...]:
        """Those that can be asked for: of prefixes, and of adapters."""
        return (*(self.config.get("styles") or {}), *self.adapted_styles)

    @property
    def reads_windows(self) -> bool:
        """Whether long text can be read in windows: by encoders like CLIP's, for UNets, which take any number of tokens."""
        towers = [*self.text_towers, *(tower for role in self._own_readers() for tower in self.towers_of(role))]
        return reads_windows(towers) and all(family_of(each).part == "unet" for each in self._denoisers)

    @torch.inference_mode()
    def decode(self, latents_bchw: Tensor, output_type: str = "pil") -> Any:
        """Latents -> images: a list of PIL images, (B, H, W, 3) numpy in [0, 1], or a (B, 3, H, W) tensor in [0, 1]."""
        if output_type == "latent":
            return latents_bchw
        if self.vae.config.get("force_upcast") and self.vae.dtype == torch.float16:
            self.vae.to(torch.float32)  # SDXL's overflows in half precision
        pixels = decode_latents(self.vae, latents_bchw).float()
        return self.image_processor.postprocess(pixels, output_type=output_type)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | Mapping[Role, int] = 30,
        guidance_scale: float | Mapping[Role, float] | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: pair_inputs.Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        styles: Mapping[str, float] | None = None,
        lora_scales: Mapping[Role, float] | None = None,
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        guidance_rescale: float = 0.0,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        cross_attention_kwargs: Mapping[str, Any] | None = None,
        guidance_scales: Mapping[Role, float] | None = None,
        guidance_interval: pair_inputs.Interval | Mapping[Role, pair_inputs.Interval] | None = None,
        prompts: Mapping[Role, str | list[str]] | None = None,
        step_split: Literal["log_snr"] | None = None,
        long_prompts: LongPrompts = "cut",
    ) -> Any:
        """Images for prompts in Chinese or English; the arguments are those of diffusers' text-to-image pipelines.

        `latents`, where given, are unit Gaussian noise of shape (images, C, height / 8, width / 8) for an 8x autoencoder.
        `styles` are scales by name: of style guidance, 1 for the style alone (PanGu-Draw, Section 3.3), or of the adapters that
        the pipeline has in the place of a prefix; `lora_scales` are weights of the adapters by role; `guidance_scales` those of
        guidance by role, where they are not `guidance_scale`.
        `timesteps` or `sigmas` stand in for the scheduler's own; `guidance_scale` of at most 1 means the caption alone,
        and None what the pair was tuned with (`sampling`).
        `num_inference_steps` and `guidance_scale` may be one number for each role; `prompts` are what single roles are told.
        `step_split` = log_snr shares the steps by the log-SNR that each expert crosses.
        `long_prompts` = windows reads what lies beyond `max_tokens`, too, where encoders and networks can.
        `guidance_interval` is the lowest and the highest timestep at which there is guidance (arXiv 2404.07724), for all roles or
        by role; elsewhere networks are not asked for the negative prompt.

        Raises:
            UserError: an argument is out of its range; the sentence names it.
        """
        given = prompt_embeds, negative_prompt_embeds, pooled_prompt_embeds, negative_pooled_prompt_embeds
        embeds = pair_inputs.Embeds(*given)
        pair_inputs.check_embeds(prompt, negative_prompt, embeds, text_channels(self._any_generator))
        scale, own_scales = self._guidance(guidance_scale)
        role_steps = self._role_steps(num_inference_steps, step_split, timesteps is not None or sigmas is not None)
        steps = num_inference_steps if isinstance(num_inference_steps, int) else sum(role_steps.values())
        texts, negatives = pair_inputs.check(
            prompt, negative_prompt, steps, scale, num_images_per_prompt, output_type,
            guidance_rescale, embeds.prompt,
        )  # fmt: skip
        images = len(texts) * num_images_per_prompt
        request = pair_inputs.PairInputs(
            height=height or self.resolution,
            width=width or self.resolution,
            num_inference_steps=steps,
            guidance_scale=scale,
            generators=pair_inputs.generators(generator, images),
            latents=latents,
            lora_scales=dict(lora_scales or {}),
            guidance_scales=own_scales | dict(guidance_scales or {}),
            guidance_intervals=pair_inputs.intervals_of(guidance_interval, self._contracts),
            role_steps=role_steps,
            guidance_rescale=guidance_rescale,
            timesteps=timesteps,
            sigmas=sigmas,
            cross_attention_kwargs=cross_attention_kwargs,
            callback=callback_on_step_end,
            callback_tensors=pair_inputs.callback_tensors(
                callback_on_step_end, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs
            ),
        )
        pair_inputs.check_scales(request.guidance_scales, self._contracts)
        self._begin_call(scale, guidance_rescale, cross_attention_kwargs)
        if embeds.prompt is None:
            said = self.encode_prompt(texts, negatives, styles, prompts=prompts, long_prompts=long_prompts)
        elif styles and not set(styles) <= set(self.adapted_styles):
            raise UserError("styles put a prefix before the prompt, so they need prompt, not prompt_embeds.")
        elif prompts:
            raise UserError("prompts of single roles need prompt, not prompt_embeds.")
        else:
            guided = max([scale, *request.guidance_scales.values()]) > 1
            said = encode_prompts.from_embeds(self._reader(), embeds, negatives, guided)
            said = replace(said, adapters=dict(styles or {}))
            if own := next(iter(self._own_readers()), None):
                raise UserError(f"prompt_embeds say nothing to the {own} generator, which reads text in its own way.")
        result = self.decode(self._sample(said.repeat(num_images_per_prompt), request), output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=result) if return_dict else (result,)

    def _guidance(self, given: float | Mapping[Role, float] | None) -> tuple[float, dict[Role, float]]:
        """(of all roles, of those that have their own), as asked for or as the pair prefers."""
        if given is not None:
            return pair_inputs.by_role("guidance_scale", given, self._contracts)
        own = self.sampling.texture_guidance
        return self.sampling.guidance_scale, {} if own is None else {"texture": own}

    def _role_steps(
        self, steps: int | Mapping[Role, int], split: Literal["log_snr"] | None, own_schedule: bool
    ) -> dict[Role, int]:
        """Steps of each expert, where they are chosen one by one; none where the scheduler decides.

        Raises:
            UserError: no experts take turns here, or their steps can not be chosen so.
        """
        if split is None and not isinstance(steps, Mapping):
            return {}
        if not set(ROLES) <= self._contracts.keys():
            raise UserError(
                "Steps can be chosen by role where experts take turns alone; give num_inference_steps as one number."
            )
        if own_schedule:
            raise UserError(
                "timesteps and sigmas say which steps each half takes; leave step_split and steps by role out."
            )
        if split is None:
            _, own = pair_inputs.by_role("num_inference_steps", steps, self._contracts)
            for role, count in own.items():
                if count < 1:
                    raise UserError(
                        f"num_inference_steps leaves no step to the {role} generator; the least number is 1."
                    )
            return own
        if split != "log_snr":
            raise UserError(f"step_split may be log_snr, not '{split}'.")
        if isinstance(steps, Mapping):
            raise UserError("step_split shares one number of steps; give num_inference_steps as a number.")
        boundaries = [self.interval(role).low for role in self._contracts][:-1]
        return split_by_log_snr(self.scheduler, steps, *boundaries)

    def _sample(self, condition: Condition, request: pair_inputs.PairInputs) -> Tensor:
        """Clean latents (B, C, H, W) for every prompt of `condition`."""
        raise NotImplementedError

    def _own_readers(self) -> Mapping[Role, encode_prompts.Reader]:
        """How those generators read text that do it in another way than that of `reference`."""
        return {}

    def readers(self) -> dict[Role, encode_prompts.Reader]:
        """How generators read text: that of `reference`, and those that do it in another way."""
        return {self.reference.role: self._reader(), **self._own_readers()}

    def worded(self, role: Role, prompts: list[str]) -> list[str]:
        """What the generator of `role` is told for these prompts."""
        return prompts

    def _reader(self, role: Role | None = None) -> encode_prompts.Reader:
        """How the generator of `role` reads, or that of `reference`."""
        towers = self.text_towers if role is None else self.towers_of(role)
        tokens = (self.reference if role is None else self.contract(role)).max_tokens
        # Asked only where weights may be elsewhere: diffusers looks through every module for it.
        moved = any(hasattr(tower.encoder, "_hf_hook") or tower.encoder.device.type == "meta" for tower in towers)
        device = self._execution_device if moved else None
        return encode_prompts.Reader(towers, tokens, device, self.warns_of_text, self.scores(role))

    def scores(self, role: Role | None) -> tuple[float, float] | None:
        """Of aesthetics, that the generator of `role` is told of prompts and of negative ones."""
        return None

    def towers_of(self, role: Role) -> list[TextTower]:
        """The text encoders that the generator of `role` was trained with."""
        return self.text_towers
