"""Low-rank adapters on a generator (arXiv 2106.09685), by peft, in diffusers' own file format.

Owns what is trained, saved, checked, scaled and fused. Knows nothing of the training loop or of pipelines.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from pangu.config import LoraConfig
from pangu.contract import GeneratorContract
from pangu.diffusion.interval import TimeInterval
from pangu.errors import UserError

WEIGHTS = "pytorch_lora_weights.safetensors"
ADAPTER = "default"
PREFIX = "unet"
"""Stands before every key, so that diffusers' own Stable Diffusion and SDXL pipelines read the file too."""
SHARED = ("schedule", "autoencoder_hash", "text_encoder_hashes")


def has_lora(unet: Any) -> bool:
    """Whether a UNet (or None) carries an adapter."""
    return bool(getattr(unet, "peft_config", None))


def add_lora(unet: Any, config: LoraConfig, seed: int) -> None:
    """Freeze the weights and add a trainable adapter, which changes no prediction yet; drawn from `seed` alone.

    Raises:
        UserError: no layer has one of the names.
    """
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


def save_lora(unet: Any, contract: GeneratorContract, folder: Path) -> None:
    """Write the adapter folder: `pytorch_lora_weights.safetensors` as diffusers writes it, and the interval contract."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin
    from peft.utils import get_peft_model_state_dict

    facts = unet.peft_config[ADAPTER].to_dict()
    StableDiffusionLoraLoaderMixin.save_lora_weights(
        folder,
        unet_lora_layers=get_peft_model_state_dict(unet, adapter_name=ADAPTER),
        # Sets have no order, but what is written should repeat.
        unet_lora_adapter_metadata={k: sorted(v) if isinstance(v, set) else v for k, v in facts.items()},
        weight_name=WEIGHTS,
    )
    contract.save(folder)


def check_lora(folder: Path, half: GeneratorContract) -> None:
    """An adapter fits a half whose timesteps it was trained for, on the same latents and the same text.

    Raises:
        UserError: there is no adapter, or it was trained for something else; the sentence names both sides.
    """
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"There is no adapter at {folder}; a folder with {WEIGHTS} is needed.")
    adapter = GeneratorContract.load(folder)
    if not _covers(adapter.interval, half.interval):
        raise UserError(
            f"The adapter at {folder} was trained for t in {adapter.interval} ({adapter.role}), but the {half.role} "
            f"generator is asked for t in {half.interval}."
        )
    for name in SHARED:
        ours, theirs = getattr(half, name), getattr(adapter, name)
        if ours != theirs:
            raise UserError(
                f"The adapter at {folder} was trained with {name} {theirs}, but the {half.role} generator with {ours}."
            )


def load_lora(unet: Any, folder: Path, half: GeneratorContract) -> None:
    """Put the adapter of `folder` on a UNet for sampling, in the place of the one that it may have.

    Raises:
        UserError: it does not fit the interval contract of that half, or its layers are not those of the UNet.
    """
    check_lora(folder, half)
    unload_lora(unet)
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            prefixed = all(key.startswith(f"{PREFIX}.") for key in file.keys())  # noqa: SIM118 (no mapping)
        unet.load_lora_adapter(
            folder,
            weight_name=WEIGHTS,
            prefix=PREFIX if prefixed else None,
            adapter_name=ADAPTER,
            use_safetensors=True,
            local_files_only=True,
        )
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        unet.unload_lora()  # whatever of it was put in place
        raise UserError(
            f"The adapter at {folder} does not fit the {half.role} generator: {str(error).splitlines()[0]}"
        ) from error
    # New layers come in training mode, with dropout.
    unet.eval().requires_grad_(False)


def set_lora_scale(unet: Any, scale: float) -> None:
    """Weigh the adapter: 0 is the generator without it, 1 what was trained. What is trainable stays so."""
    from peft.tuners.lora import LoraLayer

    for module in unet.modules():
        if isinstance(module, LoraLayer):
            module.set_scale(ADAPTER, scale)


def fuse_lora(unet: Any, scale: float = 1.0) -> None:
    """Make the adapter part of the weights, W + scale * alpha / rank * B A; what is left is an ordinary UNet."""
    set_lora_scale(unet, scale)
    unet.fuse_lora()
    unload_lora(unet)


def unload_lora(unet: Any) -> None:
    """Take the adapter off; nothing happens where there is none."""
    if has_lora(unet):
        unet.unload_lora()


def _covers(wide: TimeInterval, narrow: TimeInterval) -> bool:
    return wide.low <= narrow.low and narrow.high <= wide.high
