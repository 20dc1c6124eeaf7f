"""Files of low-rank adapters: which of their matrices belongs to which layer of a network.

Every format names a layer, a side (down is A, up is B) and sometimes an alpha:

    unet.down_blocks.0.attentions.0...to_q.lora_A.weight            peft, with `unet.`, `base_model.model.` or nothing in front
    unet.down_blocks.0...attn1.processor.to_q_lora.down.weight      diffusers' attention processors
    unet.down_blocks.0.attentions.0.proj_in.lora.down.weight        diffusers' layers
    lora_unet_down_blocks_0_attentions_0...to_q.lora_down.weight    kohya, by diffusers' names of the blocks
    lora_unet_input_blocks_1_1_...to_q.lora_down.weight             kohya, by the names of the original Stable Diffusion and SDXL
    transformer.transformer_blocks.0.attn.to_q.lora_A.weight        peft, of a transformer
    double_blocks.0.processor.qkv_lora1.down.weight                 XLabs, of FLUX

Names of the original code of a transformer are read by `lora_families` and `lora_layouts`.
Nothing is left out in silence: what can not be used is refused.
"""

import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pangu.extras import extras_named
from pangu.models.lora_files import TEXT, AdapterFile, PeftFacts
from pangu.models.original_names import original_name, original_prefixes

_MATRIX = re.compile(r"(?P<layer>.+?)[._]lora[._](?:linear_layer\.)?(?P<side>A|B|down|up)(?:\.[^.]+)?\.weight")
_XLABS = re.compile(r"(?P<layer>.+_lora\d?)\.(?P<side>down|up)\.weight")
_ALPHA = re.compile(r"(?P<layer>.+?)(?:[._]lora)?\.alpha")
_PREFIX = re.compile(
    r"^(base_model\.model\.|model\.diffusion_model\.|diffusion_model\.|unet\.|transformer\.|lora_unet_|lycoris_)+"
)
_OTHER_KINDS = {
    "dora_scale": "DoRA", "lora_magnitude_vector": "DoRA", ".hada_": "LoHa", ".lokr_": "LoKr", "lora_mid": "LoCon with a core",
    ".oft_": "OFT", "lora_embedding_": "LoRA on embeddings", "lora_controlnet": "Control-LoRA",
}  # fmt: skip


@dataclass(frozen=True)
class LowRank:
    """The adapter of one layer, W + alpha / rank * B A.

    down: A, (rank, inputs) or (rank, inputs, height, width); up: B, (outputs, rank) or (outputs, rank, 1, 1).
    """

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return len(self.down)


def low_rank_layers(
    file: AdapterFile, layers: Mapping[str, nn.Module], unet: Any, drop_text: bool = False
) -> dict[str, LowRank]:
    """The matrices of a file by the name of the layer of `unet` that each belongs to.

    Args:
        layers: the layers that can be adapted, by name.
        drop_text: leave out the matrices for text encoders, which nothing here takes.

    Raises:
        ValueError: something in the file could not be used, or something is missing; the sentence names the first.
    """
    keys = keys_by_layer(file.tensors, drop_text)
    named = _named(keys, layers, unet)
    _check_complete(named, file.facts, layers)
    return {name: _low_rank(name, named[name], file, layers[name]) for name in layers if name in named}


def keys_by_layer(tensors: Mapping[str, Tensor], drop_text: bool) -> dict[str, dict[str, str]]:
    """{layer as the file names it: {"down", "up" or "alpha": key}}.

    Raises:
        ValueError: something in it is no part of a LoRA, or for a text encoder.
    """
    found: dict[str, dict[str, str]] = {}
    text = [key for key in tensors if TEXT.match(key)]
    for key in tensors:
        kind = next((kind for mark, kind in _OTHER_KINDS.items() if mark in key), None)
        if kind:
            raise ValueError(f"it is {kind} ({key}), and only LoRA is read")
        if key in text:
            continue
        match = _MATRIX.fullmatch(key) or _XLABS.fullmatch(key) or _ALPHA.fullmatch(key)
        if match is None:
            raise ValueError(f"its key {key} is no matrix and no alpha of a LoRA")
        side = {"A": "down", "B": "up"}.get(side := match.groupdict().get("side", "alpha"), side)
        keys = found.setdefault(match["layer"], {})
        if side in keys:
            raise ValueError(f"it says twice what {match['layer']} gets ({keys[side]} and {key})")
        keys[side] = key
    if text and not drop_text:
        raise ValueError(
            f"{len(text)} of its {len(tensors)} tensors are for text encoders (first {text[0]}), which are not adapted here; "
            "load_lora_weights(..., drop_text_encoder=True) leaves them out"
        )
    if not found:
        raise ValueError("it holds no matrices")
    return found


def _named(keys: Mapping[str, dict[str, str]], layers: Mapping[str, nn.Module], unet: Any) -> dict[str, dict[str, str]]:
    """The same by the names of the network."""
    names = names_here(keys, layers, unet)
    found: dict[str, dict[str, str]] = {}
    unknown = [layer for layer in keys if layer not in names]
    for layer, name in names.items():
        entry = keys[layer]
        both = sorted(set(found.get(name, {})) & set(entry))
        if both:
            raise ValueError(f"it says twice what {name} gets ({found[name][both[0]]} and {entry[both[0]]})")
        found[name] = found.get(name, {}) | entry
    if unknown:
        raise ValueError(
            f"only {len(keys) - len(unknown)} of its {len(keys)} layers are layers of this network, {unknown[0]} is none"
        )
    return found


def names_here(keys: Iterable[str], layers: Mapping[str, nn.Module], unet: Any) -> dict[str, str]:
    """{layer as the file names it: its name in the network}, without those that the network does not have."""
    prefixes = original_prefixes(unet)
    known = {spelling.replace(".", "_"): name for name in layers for spelling in (original_name(name, prefixes), name)}
    found = {}
    for layer in keys:
        plain = plain_name(layer)
        name = known.get(plain) or known.get(f"{plain}_0" if plain.endswith("to_out") else "")
        if name is not None:
            found[layer] = name
    return found


def plain_name(layer: str) -> str:
    """What a file calls a layer, without what stands before the names of the network, and with _ for points."""
    return _PREFIX.sub("", layer).replace(".processor.", ".").replace(".", "_")


def _check_complete(named: Mapping[str, dict[str, str]], facts: PeftFacts, layers: Mapping[str, nn.Module]) -> None:
    check_whole(named)
    expected = _targets(facts, layers)
    missing = [name for name in expected if name not in named]
    if missing:
        count = f"{len(expected) - len(missing)} of the {len(expected)}"
        raise ValueError(f"only {count} layers that its configuration names are there, {missing[0]} is not")


def check_whole(keys: Mapping[str, Mapping[str, str]]) -> None:
    """Raises ValueError if a layer of an adapter lacks one of its two matrices."""
    halves = {name: side for name, sides in keys.items() for side in ("up", "down") if side not in sides}
    if halves:
        name, side = next(iter(halves.items()))
        letter = {"down": "A (down)", "up": "B (up)"}[side]
        raise ValueError(
            f"only {len(keys) - len(halves)} of its {len(keys)} layers are whole, {name} has no matrix {letter}"
        )


def _targets(facts: PeftFacts, layers: Mapping[str, nn.Module]) -> list[str]:
    """The layers that peft adapted, by what is written about the training; none where nothing is."""
    with extras_named("An adapter"):
        import peft
        from peft.tuners.tuners_utils import check_target_module_exists

    if facts.target_modules in (None, "all-linear"):
        return []
    wanted = {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"}
    config = peft.LoraConfig(**facts.model_dump(include=wanted))
    return [name for name in layers if bool(check_target_module_exists(config, name))]


def _low_rank(name: str, keys: Mapping[str, str], file: AdapterFile, layer: nn.Module) -> LowRank:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    down, up = (_shaped(file.tensors[keys[side]], weight) for side in ("down", "up"))
    outputs, *inputs = weight.shape
    ones = [1] * (len(inputs) - 1)
    rank = down.shape[0] if down.ndim else 1
    if not rank:
        raise ValueError(f"the rank of {name} is 0")
    if list(down.shape) != [rank, *inputs] or list(up.shape) != [outputs, rank, *ones]:
        raise ValueError(
            f"the matrices of {name} are {tuple(down.shape)} and {tuple(up.shape)}, but (r, {', '.join(map(str, inputs))}) and "
            f"({', '.join(map(str, [outputs, 'r', *ones]))}) are needed"
        )
    for matrix, side in ((down, "down"), (up, "up")):
        if not matrix.isfinite().all():
            raise ValueError(
                f"{keys[side]} holds values that are not finite in {str(weight.dtype).removeprefix('torch.')}"
            )
    alpha = _alpha(name, file.tensors[keys["alpha"]] if "alpha" in keys else None, rank, file.facts)
    if not math.isfinite(alpha) or not alpha:
        raise ValueError(f"the alpha of {name} is {alpha}, so the adapter would do nothing or spoil everything")
    return LowRank(down, up, alpha)


def _shaped(matrix: Tensor, weight: Tensor) -> Tensor:
    """On the device and in the type of the layer; a 1 x 1 convolution and a linear layer are written either way."""
    if not matrix.is_floating_point():
        raise ValueError(f"its matrices are {str(matrix.dtype).removeprefix('torch.')}, but floating point is needed")
    if matrix.ndim == 4 and weight.ndim == 2 and matrix.shape[2:] == (1, 1):
        matrix = matrix[:, :, 0, 0]
    elif matrix.ndim == 2 and weight.ndim == 4:
        matrix = matrix[:, :, None, None]
    return matrix.detach().to(weight.device, weight.dtype, copy=True).contiguous()


def _alpha(name: str, written: Tensor | None, rank: int, facts: PeftFacts) -> float:
    """What A and B are scaled by, times the rank; the rank itself, so by 1, where nothing is written."""
    from peft.utils.other import get_pattern_key

    if written is not None:
        if written.numel() != 1:
            raise ValueError(f"the alpha of {name} must be one number, not {written.numel()}")
        return float(written)
    pattern = facts.alpha_pattern or {}
    usual = rank if facts.lora_alpha is None else facts.lora_alpha
    alpha = pattern.get(get_pattern_key(list(pattern), name), usual)
    return alpha * math.sqrt(rank) if facts.use_rslora else alpha


def adaptable_layers(unet: nn.Module) -> dict[str, nn.Module]:
    """The linear and convolutional layers of a network by name, as if no adapter was on it."""
    # Where nobody has imported peft, none of its layers is there.
    lora = sys.modules.get("peft.tuners.lora")
    found: dict[str, nn.Module] = {}
    inside: tuple[str, ...] = ()
    for name, module in unet.named_modules():
        if name.startswith(inside):
            continue
        if lora is not None and isinstance(module, lora.LoraLayer):
            inside += (f"{name}.",)
            module = module.get_base_layer()
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            found[name] = module
    return found
