"""Which adapter a pipeline gets. A new family of models is one class and one line here, or one call of `register`."""

from typing import Any

from diffusers import (
    DDIMPipeline,
    DDPMPipeline,
    FluxPipeline,
    IFPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImageVariationPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
)

from pangu.errors import UserError
from pangu.pipelines.baselines import SingleStage
from pangu.pipelines.coop.adapters.flow import Flux, StableDiffusion3
from pangu.pipelines.coop.adapters.pangu_pair import PanGuDraw, SingleGenerator
from pangu.pipelines.coop.adapters.pixel_space import DeepFloyd, Pixels
from pangu.pipelines.coop.adapters.sdxl import ControlledStableDiffusionXL, StableDiffusionXL
from pangu.pipelines.coop.adapters.stable_diffusion import ControlledStableDiffusion, ImageVariation, StableDiffusion
from pangu.pipelines.coop.model_adapter import ModelAdapter
from pangu.pipelines.pangu_draw import PanGuDrawPipeline

ADAPTERS: dict[type, type[ModelAdapter]] = {
    StableDiffusionPipeline: StableDiffusion,
    StableDiffusionControlNetPipeline: ControlledStableDiffusion,
    StableDiffusionImageVariationPipeline: ImageVariation,
    StableDiffusionXLPipeline: StableDiffusionXL,
    StableDiffusionXLControlNetPipeline: ControlledStableDiffusionXL,
    StableDiffusion3Pipeline: StableDiffusion3,
    FluxPipeline: Flux,
    DDPMPipeline: Pixels,
    DDIMPipeline: Pixels,
    IFPipeline: DeepFloyd,
    PanGuDrawPipeline: PanGuDraw,
    SingleStage: SingleGenerator,
}


def register(pipeline_class: type, adapter: type[ModelAdapter]) -> None:
    """Let pipelines of a further class cooperate through `adapter`."""
    ADAPTERS[pipeline_class] = adapter


def adapter_for(pipe: Any, name: str) -> ModelAdapter:
    """The adapter of a pipeline.

    Raises:
        UserError: no adapter knows pipelines of its class, or something is missing in it.
    """
    for cls in type(pipe).__mro__:
        if cls in ADAPTERS:
            return ADAPTERS[cls](pipe, name)
    known = ", ".join(sorted(cls.__name__ for cls in ADAPTERS))
    raise UserError(f"{name} is a {type(pipe).__name__}; models that can cooperate are {known}.")
