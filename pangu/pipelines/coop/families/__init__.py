"""Which adapter a pipeline gets. A new family is one class and one line here, or one call of `register`."""

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
from pangu.pipelines.coop.families.flow import Flux, StableDiffusion3
from pangu.pipelines.coop.families.pangu_draw import PanGuDraw, SingleGenerator
from pangu.pipelines.coop.families.pixels import DeepFloyd, Pixels
from pangu.pipelines.coop.families.sdxl import ControlledStableDiffusionXL, StableDiffusionXL
from pangu.pipelines.coop.families.stable_diffusion import ControlledStableDiffusion, ImageVariation, StableDiffusion
from pangu.pipelines.coop.family import Family
from pangu.pipelines.pangu_draw import PanGuDrawPipeline

FAMILIES: dict[type, type[Family]] = {
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


def register(pipeline_class: type, family: type[Family]) -> None:
    """Let pipelines of a further class cooperate through `family`."""
    FAMILIES[pipeline_class] = family


def family_of(pipe: Any, name: str) -> Family:
    """The adapter of a pipeline.

    Raises:
        UserError: no family knows pipelines of its class, or something is missing in it.
    """
    for cls in type(pipe).__mro__:
        if cls in FAMILIES:
            return FAMILIES[cls](pipe, name)
    known = ", ".join(sorted(cls.__name__ for cls in FAMILIES))
    raise UserError(f"{name} is a {type(pipe).__name__}; models that can cooperate are {known}.")
