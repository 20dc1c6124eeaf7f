"""From what a user names (a pipeline, a folder, a hub id) to a pipeline that can cooperate. No pickle is ever read."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    ControlNetModel,
    DiffusionPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
)

from pangu.errors import UserError
from pangu.models.sources import locate, read_config
from pangu.pipelines.baselines import SingleStage
from pangu.pipelines.pangu_draw import PanGuDrawPipeline

OWN = {"PanGuDrawPipeline": PanGuDrawPipeline, "SingleStage": SingleStage}
CONTROLLED = {
    StableDiffusionPipeline: StableDiffusionControlNetPipeline,
    StableDiffusionXLPipeline: StableDiffusionXLControlNetPipeline,
}


def load_pipeline(source: Any, controlnet: Any = None, dtype: torch.dtype | None = None) -> Any:
    """The pipeline at `source`, with ControlNet(s) where given; a pipeline in memory is taken as it is.

    Raises:
        UserError: nothing loadable is there, or ControlNets are asked for on a model that has none.
    """
    if isinstance(source, (str, Path)):
        source = _load(str(source), dtype)
    return source if controlnet is None else _controlled(source, controlnet, dtype)


def _load(source: str, dtype: torch.dtype | None) -> Any:
    place = locate(source, "pair")
    index = read_config(place, "model_index.json")
    if index is None:
        raise UserError(f"{source} has no model_index.json; give a folder or hub id of a diffusers pipeline.")
    cls = OWN.get(str(index.get("_class_name")), DiffusionPipeline)
    arguments: dict[str, Any] = {} if dtype is None else {"torch_dtype": dtype}
    try:
        return cls.from_pretrained(place, use_safetensors=True, **arguments)
    except (OSError, AttributeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{source} can not be loaded as a pipeline: {str(error).splitlines()[0]}") from error


def _controlled(pipe: Any, controlnet: Any, dtype: torch.dtype | None) -> Any:
    cls = next((there for here, there in CONTROLLED.items() if type(pipe) is here), None)
    if cls is None:
        raise UserError(
            f"ControlNets are put on a StableDiffusionPipeline or a StableDiffusionXLPipeline, not on a {type(pipe).__name__}."
        )
    several = controlnet if isinstance(controlnet, (list, tuple)) else [controlnet]
    nets = [_load_controlnet(net, dtype or pipe.dtype).to(pipe.device) for net in several]
    parts = {name: part for name, part in pipe.components.items() if name != "controlnet"}
    extra = {"requires_safety_checker": False} if cls is StableDiffusionControlNetPipeline else {}
    return cls(**parts, controlnet=nets if len(nets) > 1 else nets[0], **extra)


def _load_controlnet(source: Any, dtype: torch.dtype) -> Any:
    if not isinstance(source, (str, Path)):
        return source
    try:
        return ControlNetModel.from_pretrained(
            locate(str(source), "controlnet"), torch_dtype=dtype, use_safetensors=True
        )
    except OSError as error:
        raise UserError(f"There is no ControlNet at {source}: {str(error).splitlines()[0]}") from error
