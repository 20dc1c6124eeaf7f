"""Models of pixels: they have no autoencoder, and their latents are the picture in [-1, 1]."""

from typing import Any

from torch import Tensor

from pangu.errors import UserError
from pangu.pipelines.coop.model_adapter import GenerationRequest, ModelAdapter, check_parts
from pangu.sampling.condition import Condition, Tensors


class Pixels(ModelAdapter):
    """`DDPMPipeline` and `DDIMPipeline`: a UNet of pixels without any condition."""

    def check(self) -> None:
        if self.channels != 3:
            raise UserError(f"{self.name} draws {self.channels} channel(s); only pictures of 3 can be bridged.")
        check_parts(self)

    @property
    def vae(self) -> None:
        return None

    @property
    def pixels_per_latent(self) -> int:
        return 1

    @property
    def size_step(self) -> int:
        return 2 ** (len(self.network.config.block_out_channels) - 1)

    @property
    def default_size(self) -> tuple[int, int]:
        side = self.network.config.sample_size
        return (side, side) if isinstance(side, int) else tuple(side)

    def to_pixels(self, latents_bchw: Tensor, vae: Any = None) -> Tensor:
        return latents_bchw.float()

    def to_latents(self, pixels_bchw: Tensor, vae: Any = None) -> Tensor:
        return pixels_bchw.float()

    def condition(self, request: GenerationRequest) -> Condition:
        return Condition()

    def network_call(self, noisy_bchw: Tensor, timestep: Tensor, tensors: Tensors, condition: Condition) -> Tensor:
        return self.network(noisy_bchw, self.there(timestep), return_dict=False)[0]


class DeepFloyd(Pixels):
    """`IFPipeline`: a text-conditioned UNet of pixels, whose further channels are its learned variance."""

    def condition(self, request: GenerationRequest) -> Condition:
        guided = request.guidance_scale > 1
        tokens, negative = self.pipe.encode_prompt(
            request.prompts,
            guided,
            num_images_per_prompt=request.images_per_prompt,
            device=self.device,
            negative_prompt=request.negatives,
        )
        return self.told({"tokens": tokens}, {"tokens": negative} if guided else None, request)

    def network_call(self, noisy_bchw: Tensor, timestep: Tensor, tensors: Tensors, condition: Condition) -> Tensor:
        text = tensors["tokens"]
        return self.network(noisy_bchw, self.there(timestep), encoder_hidden_states=text, return_dict=False)[0]
