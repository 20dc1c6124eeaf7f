"""Low-rank adapters on a generator (arXiv 2106.09685), by peft: trained, saved in diffusers' format, loaded, scaled, fused.

What of a file belongs to which layer is decided in `lora_formats`.
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import nn

from pangu.config import LoraConfig
from pangu.contract import CONTRACT_FILE, GeneratorContract
from pangu.diffusion.interval import TimeInterval
from pangu.errors import UserError
from pangu.extras import extras_named
from pangu.models.denoisers import family_of
from pangu.models.lora_families import by_names_of
from pangu.models.lora_files import WEIGHTS, AdapterFile, find_weights, read_file
from pangu.models.lora_formats import LowRank, adaptable_layers, low_rank_layers

ADAPTER = "default"
SHARED = ("schedule", "autoencoder_hash", "text_encoder_hashes")


def has_lora(unet: Any) -> bool:
    """Whether a UNet (or None) carries an adapter."""
    return bool(getattr(unet, "peft_config", None))


def add_lora(unet: Any, config: LoraConfig, seed: int) -> None:
    """Freeze the weights and add a trainable adapter, which changes no prediction yet; drawn from `seed` alone.

    Raises:
        UserError: no layer has one of the names.
    """
    with extras_named("An adapter"):
        import peft

    unet.requires_grad_(False)
    wanted = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # peft divides it by the rank; fractions work
        lora_dropout=config.dropout,
        target_modules=list(config.target_modules),
    )
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            unet.add_adapter(wanted, ADAPTER)
    except ValueError as error:
        names = ", ".join(config.target_modules)
        raise UserError(f"lora.target_modules ({names}) names no layer of this UNet that can be adapted.") from error


def trained_parameters(unet: nn.Module) -> list[nn.Parameter]:
    """What an optimizer and a running mean of the weights are about: the adapter's, or all where there is none."""
    return [parameter for parameter in unet.parameters() if parameter.requires_grad]


def save_lora(unet: Any, contract: GeneratorContract, folder: Path, name: str = ADAPTER) -> None:
    """Write the adapter folder: `pytorch_lora_weights.safetensors` as diffusers writes it, and the interval contract."""
    from diffusers.loaders import SanaLoraLoaderMixin, StableDiffusionLoraLoaderMixin
    from peft.utils import get_peft_model_state_dict

    facts, part = unet.peft_config[name].to_dict(), family_of(unet).part
    # All of diffusers' transformers write alike.
    writer: Any = StableDiffusionLoraLoaderMixin if part == "unet" else SanaLoraLoaderMixin
    layers = {
        f"{part}_lora_layers": get_peft_model_state_dict(unet, adapter_name=name),
        # Sets have no order, but what is written should repeat.
        f"{part}_lora_adapter_metadata": {k: sorted(v) if isinstance(v, set) else v for k, v in facts.items()},
    }
    writer.save_lora_weights(folder, **layers, weight_name=WEIGHTS)
    contract.save(folder)


def save_layers(layers: Mapping[str, LowRank], contract: GeneratorContract, folder: Path, part: str = "unet") -> None:
    """Write an adapter that is on no network as `save_lora` writes those that are, in half precision.

    part: what networks of its kind are called in diffusers' pipelines.
    """
    matrices = {
        f"{part}.{name}.lora_{side}.weight": matrix.to(torch.float16).contiguous()
        for name, low in layers.items()
        for side, matrix in (("A", low.down), ("B", low.up * (low.alpha / low.rank)))
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(matrices, folder / WEIGHTS)
    contract.save(folder)


def check_lora(folder: Path, half: GeneratorContract) -> None:
    """An adapter fits a half whose timesteps it was trained for, on the same latents and the same text.

    Raises:
        UserError: there is no adapter, or it was trained for something else; the sentence names both sides.
    """
    weights = find_weights(folder).parent
    if not (weights / CONTRACT_FILE).is_file():
        raise UserError(
            f"{folder} has no {CONTRACT_FILE}, so its time interval is unknown; an adapter from elsewhere is put on the "
            f"{half.role} generator by load_lora_weights(..., role='{half.role}')."
        )
    check_contract(GeneratorContract.load(weights), half, str(folder))


def check_contract(adapter: GeneratorContract, half: GeneratorContract, source: str) -> None:
    """Raises UserError if the adapter from `source` was trained for something else than that half; it names both sides."""
    if not _covers(adapter.interval, half.interval):
        raise UserError(
            f"The adapter at {source} was trained for t in {adapter.interval} ({adapter.role}), but the {half.role} "
            f"generator is asked for t in {half.interval}."
        )
    for name in SHARED:
        ours, theirs = getattr(half, name), getattr(adapter, name)
        if ours != theirs:
            raise UserError(
                f"The adapter at {source} was trained with {name} {theirs}, but the {half.role} generator with {ours}."
            )
    if lacking := adapter.words_beyond(half.placeholder_tokens):
        raise UserError(
            f"The adapter at {source} was trained with tokens of their own for {lacking}, which the text encoders "
            f"here do not have; serve the pair that it was released in."
        )


def fitted(
    source: Path | AdapterFile, unet: Any, half: GeneratorContract, label: str = "", drop_text: bool = False
) -> dict[str, LowRank]:
    """Every matrix of an adapter, by the layer of the UNet that it belongs to; the UNet stays as it is.

    Raises:
        UserError: the file can not be read, or something in it fits no layer, or something is missing.
    """
    try:
        file = read_file(source) if isinstance(source, Path) else source
        return low_rank_layers(by_names_of(unet, file), adaptable_layers(unet), unet, drop_text)
    except ValueError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"The adapter at {label or source} does not fit the {half.role} generator: {reason}."
        ) from error


def load_lora(unet: Any, folder: Path, half: GeneratorContract) -> None:
    """Put the adapter of `folder` on a UNet for sampling, in the place of the one that it may have.

    Raises:
        UserError: it does not fit the interval contract of that half, or its layers are not those of the UNet.
    """
    check_lora(folder, half)
    layers = fitted(find_weights(folder), unet, half, str(folder))
    unload_lora(unet)
    put_adapter(unet, ADAPTER, layers)


def put_adapter(unet: Any, name: str, layers: Mapping[str, LowRank]) -> None:
    """Adapt the layers with exactly these matrices, for sampling; of several adapters the new one acts alone.

    No random number is drawn: peft creates its layers without memory, and the matrices take their place.
    """
    with extras_named("An adapter"):
        import peft

    first = next(iter(layers.values()))
    config = peft.LoraConfig(
        r=first.rank,
        lora_alpha=first.alpha,  # type: ignore[arg-type]  # peft divides it by the rank; fractions work
        # peft takes keys for the ends of names, as regular expressions.
        rank_pattern={f"^{re.escape(layer)}": low.rank for layer, low in layers.items() if low.rank != first.rank},
        alpha_pattern={f"^{re.escape(layer)}": low.alpha for layer, low in layers.items() if low.alpha != first.alpha},
        target_modules=list(layers),
    )
    own = adaptable_layers(unet)
    tensors = {
        f"{layer}.lora_{side}.weight": matrix.to(own[layer].weight)  # type: ignore[arg-type]
        for layer, low in layers.items()
        for side, matrix in (("A", low.down), ("B", low.up))
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are meant
        peft.inject_adapter_in_model(config, unet, name, low_cpu_mem_usage=True, state_dict=tensors)
    # Checked here once more, because peft itself only reports what it did not use or did not find.
    found: Any = peft.set_peft_model_state_dict(unet, tensors, name, low_cpu_mem_usage=True)
    assert not found.unexpected_keys, found.unexpected_keys
    assert not any(f".{name}." in key for key in found.missing_keys if "lora_" in key), found.missing_keys
    unet._hf_peft_config_loaded = True
    # New layers come in training mode.
    unet.eval().requires_grad_(False)
    set_adapters(unet, [name])


def taken_layers(unet: Any, name: str) -> dict[str, LowRank]:
    """The matrices of an adapter that is on the UNet: the opposite of `put_adapter`."""
    return {
        layer: LowRank(module.lora_A[name].weight, module.lora_B[name].weight, module.lora_alpha[name])
        for layer, module in _lora_layers(unet)
        if name in module.lora_A
    }


def adapter_names(unet: Any) -> list[str]:
    """The adapters that are on a UNet (or None), whether they act or not."""
    return list(unet.peft_config) if has_lora(unet) else []


def active_adapters(unet: Any) -> list[str]:
    """Those that act."""
    return list(next(_lora_layers(unet))[1].active_adapters) if has_lora(unet) else []


def set_adapters(unet: Any, names: Sequence[str], weights: Sequence[float] | None = None) -> None:
    """Let these adapters act together, each at its weight (1), which `set_lora_scale` multiplies."""
    unet.adapter_weights = dict(zip(names, weights or [1.0] * len(names), strict=True))
    for _, module in _lora_layers(unet):
        module.set_adapter(list(names))
    unet.requires_grad_(False)
    set_lora_scale(unet, 1.0)


def set_lora_scale(unet: Any, scale: float) -> None:
    """Weigh the adapters: 0 is the generator without them, 1 what was trained. What is trainable stays so."""
    weights = getattr(unet, "adapter_weights", {})
    for _, module in _lora_layers(unet):
        for name in module.lora_A:
            module.set_scale(name, scale * weights.get(name, 1.0))


def fuse_lora(unet: Any, scale: float = 1.0) -> None:
    """Make the adapters that act part of the weights, W + scale * alpha / rank * B A; what is left is an ordinary UNet.

    What was fused is remembered for `unfuse_lora`. Adapters that do not act stay as they are.
    """
    set_lora_scale(unet, scale)
    weights, acting = getattr(unet, "adapter_weights", {}), active_adapters(unet)
    fused = [_Fused(name, taken_layers(unet, name), weights.get(name, 1.0), scale) for name in acting]
    others = {name: taken_layers(unet, name) for name in adapter_names(unet) if name not in acting}
    unet.fuse_lora()
    unload_lora(unet)
    for name, layers in others.items():
        put_adapter(unet, name, layers)
        set_adapters(unet, [])
    unet.fused_adapters = [*fused_adapters(unet), *fused]


def fused_adapters(unet: Any) -> list["_Fused"]:
    """What `fuse_lora` made part of the weights and `unfuse_lora` can take out again."""
    return list(getattr(unet, "fused_adapters", ()))


def forget_fused(unet: Any) -> None:
    """What was fused stays for good."""
    unet.fused_adapters = []


def check_unfusable(unet: Any) -> None:
    """Raises UserError if an adapter that was loaded later has the name of one that is fused."""
    names = [one.name for one in fused_adapters(unet)] + adapter_names(unet)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(
            f"Two adapters '{twice}' were loaded, one before and one after it was fused; delete the later one."
        )


def unfuse_lora(unet: Any) -> None:
    """Take what was fused out of the weights again, up to rounding; it acts again as the adapters that it was.

    Raises:
        UserError: there are two adapters of one name now.
    """
    check_unfusable(unet)
    fused, acting = fused_adapters(unet), active_adapters(unet)
    weights = [unet.adapter_weights.get(name, 1.0) for name in acting]
    for one in fused:
        put_adapter(unet, one.name, one.layers)
        set_lora_scale(unet, one.weight * one.scale)
        with torch.no_grad():
            for _, module in _lora_layers(unet):
                if one.name in module.lora_A:
                    module.get_base_layer().weight -= module.get_delta_weight(one.name)
    set_adapters(unet, [*acting, *(one.name for one in fused)], [*weights, *(one.weight for one in fused)])
    forget_fused(unet)


def delete_adapters(unet: Any, names: Sequence[str]) -> None:
    """Take some adapters off; those that acted and are left go on acting."""
    left = [name for name in adapter_names(unet) if name not in names]
    acting = [name for name in active_adapters(unet) if name in left]
    weights = [unet.adapter_weights.get(name, 1.0) for name in acting]
    if not left:
        unload_lora(unet)
    else:
        unet.delete_adapters(list(names))
        set_adapters(unet, acting, weights)


def unload_lora(unet: Any) -> None:
    """Take all adapters off; nothing happens where there is none."""
    if has_lora(unet):
        unet.unload_lora()
    unet.adapter_weights = {}


class _Fused(NamedTuple):
    name: str
    layers: dict[str, LowRank]
    weight: float
    scale: float


def _lora_layers(unet: nn.Module) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return ((name, module) for name, module in unet.named_modules() if isinstance(module, LoraLayer))


def _covers(wide: TimeInterval, narrow: TimeInterval) -> bool:
    return wide.low <= narrow.low and narrow.high <= wide.high
