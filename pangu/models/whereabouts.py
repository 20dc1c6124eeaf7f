"""Where networks compute and in what precision, as diffusers says it.

diffusers looks through every module by name each time, for hooks that move or cast weights: a tenth of a picture of four steps.
Here modules are looked through once and quickly, and diffusers is asked only where there are such hooks.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def is_hooked(network: nn.Module) -> bool:
    """Whether a module of it has hooks of diffusers or accelerate, which may move or cast weights."""
    waiting: list[nn.Module | None] = [network]
    while waiting:
        module = waiting.pop()
        if module is not None:
            own = module.__dict__
            if "_diffusers_hook" in own or "_hf_hook" in own:
                return True
            if inner := own["_modules"]:
                waiting.extend(inner.values())
    return False


def device_of(networks: Iterable[nn.Module]) -> torch.device | None:
    """Of the first that is on an accelerator, else of the first; None where diffusers has to be asked, or there is none."""
    found = []
    for network in networks:
        first = next(network.parameters(), None)
        if first is None or is_hooked(network):
            return None
        found.append(first.device)
    return next((device for device in found if device.type not in ("cpu", "meta")), found[0] if found else None)


def networks_of(pipe: Any) -> list[nn.Module]:
    """Of all components of a pipeline, in their order."""
    named = getattr(pipe, "config", {})
    return [part for name, part in vars(pipe).items() if name in named and isinstance(part, nn.Module)]


def execution_device(pipe: Any) -> torch.device:
    """A pipeline's `_execution_device`: where its networks compute, also while hooks keep them elsewhere."""
    found = device_of(networks_of(pipe)) if getattr(pipe, "residence", None) is None else None
    return torch.device(pipe._execution_device) if found is None else found


def dtype_of(network: Any) -> torch.dtype:
    """What it computes in: the precision of its first floating point weight."""
    plain = isinstance(network, nn.Module) and not getattr(network, "_keep_in_fp32_modules", None)
    first = next(network.parameters(), None) if plain and not is_hooked(network) else None
    dtype: torch.dtype = network.dtype if first is None or not first.is_floating_point() else first.dtype
    return dtype
