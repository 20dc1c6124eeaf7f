"""Finding and reading the file of a low-rank adapter: safetensors only, with what peft says about it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pangu.errors import UserError

WEIGHTS = "pytorch_lora_weights.safetensors"
PEFT_WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
METADATA = "lora_adapter_metadata"
"""Where diffusers keeps peft's configuration in the header of a file."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

TEXT = re.compile(
    r"(base_model\.model\.)?(lora_te\d?_|text_encoder(_\d)?\.|text_model\.|cond_stage_model\.|conditioner\.)"
)
"""Begins the keys that are for a text encoder."""
_NETWORK = re.compile(r"^(unet|transformer(_2)?)\.")


class PeftFacts(BaseModel, frozen=True):
    """What is needed here of the configuration that peft writes beside its matrices."""

    lora_alpha: float | None = None
    alpha_pattern: dict[str, float] | None = None
    use_rslora: bool = False
    use_dora: bool = False
    target_modules: str | list[str] | None = None
    exclude_modules: str | list[str] | None = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: str | list[str] | None = None


NO_FACTS = PeftFacts()


@dataclass(frozen=True)
class AdapterFile:
    """What a file holds, and the configuration that came with it."""

    tensors: Mapping[str, Tensor]
    facts: PeftFacts = NO_FACTS


def find_weights(source: Path, weight_name: str | None = None) -> Path:
    """The file of an adapter: `source` itself, or the one in that folder that has the usual name or is the only one.

    Raises:
        UserError: there is none, or several, or one that only a pickle reader opens.
    """
    path = source / weight_name if weight_name and source.is_dir() else source
    if path.is_dir():
        usual = [path / name for name in (WEIGHTS, PEFT_WEIGHTS) if (path / name).is_file()]
        found = usual[:1] or sorted(path.glob("*.safetensors"))
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise UserError(f"{path} holds several files ({names}); say which one by weight_name.")
        path = found[0] if found else next((file for file in sorted(path.iterdir()) if file.suffix in PICKLES), path)
    if path.suffix in PICKLES and path.is_file():
        raise UserError(
            f"The adapter {path} is a pickle, which may run code when it is read; a .safetensors file is needed."
        )
    if not path.is_file():
        raise UserError(f"There is no adapter at {path}; a folder with {WEIGHTS} is needed, or a .safetensors file.")
    return path


def read_file(path: Path) -> AdapterFile:
    """Everything in a safetensors file, and the configuration in its header or, for peft's own keys, beside it.

    Raises:
        ValueError: it is no such file; the sentence is about what is wrong with it.
    """
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"it is no safetensors file ({str(error).splitlines()[0]})") from error
    beside = path.parent / PEFT_CONFIG
    if METADATA in header:
        return AdapterFile(tensors, _facts(header[METADATA]))
    if beside.is_file() and any("lora_A" in key for key in tensors):
        return AdapterFile(tensors, _facts(beside.read_text()))
    return AdapterFile(tensors)


def _facts(text: str) -> PeftFacts:
    try:
        values = json.loads(text)
        parts = {_NETWORK.sub("", key): value for key, value in values.items() if not TEXT.match(key)}
        facts = PeftFacts.model_validate(parts)
    except (json.JSONDecodeError, AttributeError, ValidationError) as error:
        raise ValueError(f"its configuration is not that of peft ({str(error).splitlines()[0]})") from error
    if facts.use_dora:
        raise ValueError("it is DoRA by its configuration (use_dora), and only LoRA is read")
    return facts
