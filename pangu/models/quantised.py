"""Networks whose linear layers are kept in fewer bits, by diffusers' quantisation configurations, and which devices take which.

The layers compute in the precision that they are loaded in (weight-only); convolutions, norms and embeddings stay as they are.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from pangu.contract import Quantised
from pangu.errors import UserError
from pangu.extras import is_findable, missing
from pangu.models.devices import best_device

CONFIGURATION = "quantization_config"
"""Of diffusers, in the `config.json` of a quantised network."""


class Kind(NamedTuple):
    """package: what computes it. capability: least one of a CUDA device; None: any device, the CPU among them."""

    package: str
    capability: tuple[int, int] | None


KINDS: Mapping[Quantised, Kind] = {
    "int8": Kind("torchao", None),
    "fp8": Kind("torchao", (8, 9)),
    "nf4": Kind("bitsandbytes", (7, 5)),
}


def check_kind(kind: Quantised) -> None:
    """Raises UserError if the device or the installation of this process lacks that kind."""
    package, needed = KINDS[kind]
    on_a_gpu = best_device().type == "cuda"
    if needed is not None and not (on_a_gpu and torch.cuda.get_device_capability() >= needed):
        device = torch.cuda.get_device_name() if on_a_gpu else "the CPU"
        raise UserError(
            f"{kind} weights need a CUDA device of compute capability {needed[0]}.{needed[1]} or more, and this is {device}; "
            f"int8 works everywhere."
        )
    for name in (package, "accelerate"):
        if is_findable(name):
            continue
        if package == "bitsandbytes":
            raise UserError(f"{kind} weights need {name}, which PanGu does not bring along: pip install {name}")
        raise missing("quantise", f"A network with {kind} weights", name)


def kind_of(config: Mapping[str, Any], name: str) -> Quantised | None:
    """How the network of that `config.json` is quantised; None where it is not. name: of the network, for the sentence.

    Raises:
        UserError: in a way that is not known here.
    """
    said = config.get(CONFIGURATION)
    if said is None:
        return None
    told = said.to_dict() if hasattr(said, "to_dict") else said
    if told.get("quant_method") == "bitsandbytes" and told.get("load_in_4bit"):
        return "nf4"
    way = str((told.get("quant_type") or {}).get("default", {}).get("_type"))
    for kind in ("int8", "fp8"):
        if way == _WAYS[kind]:
            return kind
    raise UserError(f"{name} is quantised in a way that is not known here; of those that are, take {', '.join(KINDS)}.")


def check_plain(config: Mapping[str, Any], name: str, purpose: str) -> None:
    """Raises UserError if the network of that `config.json` is quantised, which is of no use for `purpose`."""
    if config.get(CONFIGURATION) is not None:
        raise UserError(f"{name} is quantised, which can not be {purpose}; name what it was made of.")


@contextmanager
def loading(kind: Quantised | None, anew: bool = False) -> Iterator[dict[str, Any]]:
    """Arguments for diffusers' `from_pretrained` of a network of that kind. anew: which is not quantised yet.

    Raises:
        UserError: see `check_kind`.
    """
    if kind is None:
        yield {}
        return
    check_kind(kind)
    log = logging.getLogger("diffusers.quantizers.torchao.torchao_quantizer")
    before = log.level
    # It recommends bf16 for every other precision: int8 weights are exact in fp32, too, which a CPU computes faster.
    log.setLevel(logging.ERROR)
    try:
        yield {CONFIGURATION: _configuration(kind)} if anew else {}
    finally:
        log.setLevel(before)


_WAYS = {"int8": "Int8WeightOnlyConfig", "fp8": "Float8WeightOnlyConfig"}
"""Names of torchao."""


def _configuration(kind: Quantised) -> Any:
    import diffusers

    if kind == "nf4":
        return diffusers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
    import torchao.quantization

    return diffusers.TorchAoConfig(getattr(torchao.quantization, _WAYS[kind])())
