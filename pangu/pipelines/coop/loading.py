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

from pangu.contract import CONTRACT_FILE, SHARED, GeneratorContract
from pangu.errors import UserError
from pangu.models.sources import locate, read_config
from pangu.pipelines.baselines import SingleStage
from pangu.pipelines.experts_pipeline import ExpertsPipeline
from pangu.pipelines.pangu_draw import PanGuDrawPipeline

OWN = {each.__name__: each for each in (PanGuDrawPipeline, ExpertsPipeline, SingleStage)}
CONTROLLED: dict[type, type] = {
    StableDiffusionPipeline: StableDiffusionControlNetPipeline,
    StableDiffusionXLPipeline: StableDiffusionXLControlNetPipeline,
    SingleStage: SingleStage,
}


def load_pipeline(
    source: Any, controlnet: Any = None, dtype: torch.dtype | None = None, variant: str | None = None
) -> Any:
    """The pipeline at `source`, with ControlNet(s) where given; a pipeline in memory is taken as it is.

    variant: of the weight files, such as "fp16", as diffusers names them.

    Raises:
        UserError: nothing loadable is there, or ControlNets are asked for on a model that has none.
    """
    if isinstance(source, (str, Path)):
        source = _load(str(source), dtype, variant)
    return source if controlnet is None else _controlled(source, controlnet, dtype)


def _load(source: str, dtype: torch.dtype | None, variant: str | None) -> Any:
    if source == "embedded":
        return PanGuDrawPipeline.from_pretrained(source, torch_dtype=dtype)
    place = locate(source, "pair")
    index = read_config(place, "model_index.json")
    if index is None:
        raise UserError(f"{source} has no model_index.json; give a folder or hub id of a diffusers pipeline.")
    cls = OWN.get(str(index.get("_class_name")), DiffusionPipeline)
    given = {"torch_dtype": dtype, "variant": variant}
    arguments: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    try:
        return cls.from_pretrained(place, use_safetensors=True, **arguments)
    except (OSError, AttributeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{source} can not be loaded as a pipeline: {str(error).splitlines()[0]}") from error


def _controlled(pipe: Any, controlnet: Any, dtype: torch.dtype | None) -> Any:
    cls = CONTROLLED.get(type(pipe))
    if cls is None:
        names = ", ".join(sorted(known.__name__ for known in CONTROLLED))
        raise UserError(f"ControlNets are put on a pipeline of {names}, not on a {type(pipe).__name__}.")
    several = controlnet if isinstance(controlnet, (list, tuple)) else [controlnet]
    if cls is SingleStage and len(several) > 1:
        raise UserError(f"A SingleStage takes one ControlNet, not {len(several)}.")
    nets = []
    for source in several:
        net = _load_controlnet(source, dtype or pipe.dtype).to(pipe._execution_device)
        _check_fits(net, source, pipe)
        nets.append(net)
    parts = {name: part for name, part in pipe.components.items() if name != "controlnet"}
    return cls(**parts, controlnet=nets if len(nets) > 1 else nets[0], **_settings(pipe))


def _settings(pipe: Any) -> dict[str, Any]:
    """Arguments of a pipeline's class that are no components."""
    if isinstance(pipe, StableDiffusionPipeline):
        return {"requires_safety_checker": False}
    if isinstance(pipe, SingleStage):
        return {name: pipe.config[name] for name in ("contracts", "hidden_layers", "styles", "sees_padding")}
    return {}


def _check_fits(net: Any, source: Any, pipe: Any) -> None:
    """Raises UserError if a ControlNet was made for a UNet of another shape, or trained by the platform on other latents."""
    name = str(source) if isinstance(source, (str, Path)) else "The ControlNet"
    for field in ("in_channels", "cross_attention_dim", "block_out_channels"):
        theirs, ours = net.config[field], pipe.unet.config[field]
        if (list(theirs) if isinstance(theirs, (list, tuple)) else theirs) != (
            list(ours) if isinstance(ours, (list, tuple)) else ours
        ):
            raise UserError(f"{name} was made for a UNet with {field} {theirs}, but this one has {ours}.")
    folder = Path(source) if isinstance(source, (str, Path)) else None
    if folder is None or not isinstance(pipe, SingleStage) or not (folder / CONTRACT_FILE).is_file():
        return
    trained = GeneratorContract.load(folder)
    for field in SHARED:
        theirs, ours = getattr(trained, field), getattr(pipe.reference, field)
        if theirs != ours:
            raise UserError(f"{name} was trained with {field} {theirs}, but the generator has {ours}.")


def _load_controlnet(source: Any, dtype: torch.dtype) -> Any:
    if not isinstance(source, (str, Path)):
        return source
    try:
        return ControlNetModel.from_pretrained(
            locate(str(source), "controlnet"), torch_dtype=dtype, use_safetensors=True
        )
    except OSError as error:
        raise UserError(f"There is no ControlNet at {source}: {str(error).splitlines()[0]}") from error
