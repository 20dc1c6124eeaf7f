"""Networks in the layout of their original code, through diffusers' own converters, in both directions.

A converter of diffusers takes weights by their original names and returns them by its own, some cut in parts and joined anew. It
is run on stand-ins for the tensors, which note what becomes of each part. That says, at any width, what to read from where; and
what to write, which diffusers has nothing for. Converters of two kinds exist: some ask for the names that they know, so that the
names need not be known here; others rename whatever there is, and for those the names to begin with stand below.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pangu.errors import UserError

PREFIX = "model.diffusion_model."
Converter = Callable[..., dict[str, Any]]
Seeds = Callable[[Any, Iterable[str]], Iterable[str]]
"""(network, names of its weights) -> original names: all of them, or enough for a converter that asks for the others itself."""


@dataclass(frozen=True)
class Layout:
    """How the files of a class of networks are converted and written.

    converter: of `diffusers.loaders.single_file_utils`; None: the names are diffusers'. seeds: None where names are not known.
    prefixed: whether files of the original code have `model.diffusion_model.` before each name, and `asks_prefix` whether the
    converter asks for it. unwritten: why such files are not written, although their names are known.
    """

    converter: str | None
    seeds: Seeds | None
    prefixed: bool = False
    asks_prefix: bool = False
    unwritten: str = ""


class StandIn:
    """In place of a tensor of the original layout: which parts of which tensors it is made of, along the first axis."""

    def __init__(self, parts: tuple[tuple[str, int, int], ...]) -> None:
        """parts: (original name, which part, of how many)."""
        self.parts = parts
        self.shape = (1, 1)

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is torch.cat:
            return cls(tuple(part for each in args[0] for part in each.parts))
        if function is torch.chunk:
            return args[0].chunk(args[1])
        if function is torch.split:
            return args[0].chunk(len(args[1]))
        return NotImplemented

    def chunk(self, count: int, dim: int = 0) -> tuple["StandIn", ...]:
        """So many parts of a tensor that is whole."""
        assert len(self.parts) == 1 and self.parts[0][2] == 1 and dim == 0, "what is cut is a whole tensor of the file"
        return tuple(StandIn(((self.parts[0][0], index, count),)) for index in range(count))


class Checkpoint(dict[str, Any]):
    """What a converter takes for a file: a stand-in for every name that it has or is asked for."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__((name, StandIn(((name, 0, 1),))) for name in names)
        self.asked: set[str] = set()

    def __missing__(self, name: str) -> StandIn:
        self.asked.add(name)
        return StandIn(((name, 0, 1),))

    def pop(self, name: str, *default: Any) -> Any:
        if name not in self:
            return default[0] if default else self[name]
        return super().pop(name)


def _sd3(network: Any, names: Iterable[str]) -> list[str]:
    """SD3's converter counts its blocks, and looks for norms of queries and for second attentions."""
    last = network.config["num_layers"] - 1
    dual = {name.split(".")[1] for name in names if ".attn2." in name}
    norms = [f"joint_blocks.{last}.ln_q"] if any("norm_q" in name for name in names) else []
    return [f"joint_blocks.{last}.", *norms, *(f"joint_blocks.{block}.attn2." for block in dual)]


def _flux(network: Any, names: Iterable[str]) -> list[str]:
    config = network.config
    told = ["guidance"] if config["guidance_embeds"] else []
    return [f"double_blocks.{config['num_layers'] - 1}.", f"single_blocks.{config['num_single_layers'] - 1}.", *told]


def _sana(network: Any, names: Iterable[str]) -> list[str]:
    return [f"blocks.{network.config['num_layers'] - 1}."]


def _renamed(*changes: tuple[str, str]) -> Seeds:
    """The names of diffusers with these changes, in this order; what becomes one name was one tensor."""

    def names(network: Any, ours: Iterable[str]) -> list[str]:
        found = []
        for name in ours:
            for pattern, there in changes:
                name = re.sub(pattern, there, name)
            found.append(name)
        return list(dict.fromkeys(found))

    return names


_WAN = _renamed(
    (r"^condition_embedder\.time_embedder\.linear_1", "time_embedding.0"),
    (r"^condition_embedder\.time_embedder\.linear_2", "time_embedding.2"),
    (r"^condition_embedder\.text_embedder\.linear_1", "text_embedding.0"),
    (r"^condition_embedder\.text_embedder\.linear_2", "text_embedding.2"),
    (r"^condition_embedder\.time_proj", "time_projection.1"),
    (r"^scale_shift_table$", "head.modulation"),
    (r"\.scale_shift_table$", ".modulation"),
    (r"^proj_out\.", "head.head."),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_out\.0\.", ".o."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
    (r"\.ffn\.net\.2\.", ".ffn.2."),
    (r"\.norm2\.", ".norm-3."),
    (r"\.norm3\.", ".norm2."),
    (r"\.norm-3\.", ".norm3."),
)
_Z_IMAGE = _renamed(
    (r"^all_(final_layer|x_embedder)\.2-1\.", r"\1."),
    (r"\.attention\.to_out\.0\.", ".attention.out."),
    (r"\.attention\.norm_([qk])\.", r".attention.\1_norm."),
    (r"\.attention\.to_[qkv]\.", ".attention.qkv."),
)

LAYOUTS: dict[str, Layout] = {
    "SD3Transformer2DModel": Layout("convert_sd3_transformer_checkpoint_to_diffusers", _sd3, prefixed=True),
    "FluxTransformer2DModel": Layout("convert_flux_transformer_checkpoint_to_diffusers", _flux),
    "WanTransformer3DModel": Layout("convert_wan_transformer_to_diffusers", _WAN),
    "ZImageTransformer2DModel": Layout("convert_z_image_transformer_checkpoint_to_diffusers", _Z_IMAGE),
    "QwenImageTransformer2DModel": Layout(None, _renamed()),
    "SanaTransformer2DModel": Layout(
        "convert_sana_transformer_to_diffusers",
        _sana,
        unwritten="its files also hold an embedding of the empty caption, which diffusers leaves out",
    ),
    "UNet2DConditionModel": Layout("convert_ldm_unet_checkpoint", None, prefixed=True, asks_prefix=True),
}
"""Class of a network -> its original layout. How UNets are written stands in `original_layout`."""


def is_written(kind: str) -> bool:
    """Whether the original layout of that class of networks is written."""
    layout = LAYOUTS.get(kind)
    return layout is not None and layout.seeds is not None and not layout.unwritten


def check_written(network: Any) -> None:
    """Raises UserError if the original layout of a network's class is not written here."""
    kind = type(network).__name__
    layout = LAYOUTS.get(kind)
    if not is_written(kind):
        reason = f": {layout.unwritten}" if layout and layout.unwritten else ""
        raise UserError(
            f"The original layout of a {kind} is not written here{reason}; export it as diffusers' components."
        )


def original_transformer(network: Any, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights by their names in the original layout, as files of the original code have them.

    network: which they are of; it may be on the meta device.

    Raises:
        UserError: that class of networks is not written, or a weight has no place in its original layout.
    """
    check_written(network)
    found = parts_of_original(network, weights)
    if homeless := [name for name in weights if name not in found]:
        raise UserError(
            f"The original layout of a {type(network).__name__} has no place for {len(homeless)} of its {len(weights)} weights, "
            f"such as {homeless[0]}; export it as diffusers' components."
        )
    parts: dict[str, dict[int, Tensor]] = {}
    for name, stand_in in found.items():
        if name not in weights:
            raise UserError(f"The original layout of a {type(network).__name__} also holds what is {name} here.")
        pieces = weights[name].chunk(len(stand_in.parts)) if len(stand_in.parts) > 1 else [weights[name]]
        for (original, index, _), piece in zip(stand_in.parts, pieces, strict=True):
            parts.setdefault(original, {})[index] = piece
    prefix = PREFIX if LAYOUTS[type(network).__name__].prefixed else ""
    whole = {name: [own[index] for index in sorted(own)] for name, own in parts.items()}
    return {f"{prefix}{name}": (torch.cat(own) if len(own) > 1 else own[0]).contiguous() for name, own in whole.items()}


def parts_of_original(network: Any, names: Iterable[str]) -> dict[str, StandIn]:
    """Which parts of which original tensors the weights of these names are made of; {} where that is not known.

    Raises:
        UserError: diffusers' converter does not know such a network.
    """
    layout = LAYOUTS.get(type(network).__name__)
    if layout is None or layout.seeds is None:
        return {}
    return _traced(layout, Checkpoint(layout.seeds(network, names)), network)


def from_original(network: Any, file: Mapping[str, Tensor], label: str) -> dict[str, Tensor]:
    """The weights of a file in the original layout, by the names of diffusers. network: as above.

    label: of the file, for sentences.

    Raises:
        UserError: no such file is read for that class, something is missing in it or too much, or of another size.
    """
    layout = LAYOUTS.get(type(network).__name__)
    if layout is None:
        raise UserError(f"Files in the original layout of a {type(network).__name__} are not read here.")
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    if shapes.keys() == file.keys():  # diffusers' own names
        return dict(file)
    tensors = _of_network(file, PREFIX if layout.asks_prefix else "")
    checkpoint = Checkpoint(tensors)
    found = _traced(layout, checkpoint, network, label)
    used = {original for stand_in in found.values() for original, _, _ in stand_in.parts}
    missing = [*sorted(used - tensors.keys()), *(name for name in shapes if name not in found)]
    if missing:
        raise UserError(
            f"{label} lacks {len(missing)} weights of a {type(network).__name__} of this shape, such as {missing[0]}."
        )
    extra = [name for name in checkpoint if name not in used]
    extra += [stand_in.parts[0][0] for name, stand_in in found.items() if name not in shapes]
    if extra:
        raise UserError(
            f"{label} has {len(extra)} weights that its configuration has no place for, such as {extra[0]}."
        )
    return _cut(found, tensors, shapes, label)


def _of_network(file: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of the denoiser alone, where a file also has those of encoders, each behind `prefix`."""
    own = {name: tensor for name, tensor in file.items() if name.startswith(PREFIX)} or file
    return {f"{prefix}{name.removeprefix(PREFIX)}": tensor for name, tensor in own.items()}


def _cut(
    found: Mapping[str, StandIn], tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], label: str
) -> dict[str, Tensor]:
    """Each weight from its parts, whose lengths are those that it needs."""
    lengths: dict[str, dict[int, int]] = {}
    for name, stand_in in found.items():
        for original, index, _ in stand_in.parts:
            length = shapes[name][0] // len(stand_in.parts) if shapes[name] else 1
            lengths.setdefault(original, {})[index] = length
    made = {}
    for name, stand_in in found.items():
        pieces = []
        for original, index, count in stand_in.parts:
            tensor, own = tensors[original], lengths[original]
            whole = sum(own.values())
            if count > 1 and (len(own) != count or len(tensor) != whole):
                raise UserError(f"{label}: {original} is {len(tensor)} long, but the configuration says {whole}.")
            start = sum(own[before] for before in range(index))
            pieces.append(tensor if count == 1 else tensor[start : start + own[index]])
        made[name] = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
    return made


def _traced(layout: Layout, checkpoint: Checkpoint, network: Any, label: str = "") -> dict[str, StandIn]:
    """What diffusers' converter makes of a file of these names, by the names of diffusers.

    Raises:
        UserError: it does not know them.
    """
    import diffusers.loaders.single_file_utils as converters

    if layout.converter is None:
        return dict(checkpoint)
    try:
        found = getattr(converters, layout.converter)(checkpoint, config=dict(network.config))
    except (KeyError, IndexError, ValueError, AttributeError, AssertionError) as error:
        raise UserError(
            f"{label or 'The network'} is in no layout that diffusers knows of a {type(network).__name__}."
        ) from error
    return {name: each for name, each in found.items() if isinstance(each, StandIn)}
