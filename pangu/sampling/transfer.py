"""A scheduler in the middle of a trajectory, taken to another device with its history."""

import copy
from typing import Any

import torch
from torch import Tensor


def transferred(scheduler: Any, device: torch.device | str) -> Any:
    """A copy of a diffusers scheduler whose history of predictions and samples lies on `device`.

    One-dimensional tables (timesteps, sigmas, alpha_bars) that lie on the CPU stay there: a step looks into them, and nothing
    has to wait for the device. The original is left as it is, so both can go on.
    """
    twin = copy.copy(scheduler)
    for name, value in vars(scheduler).items():
        setattr(twin, name, _moved(value, torch.device(device)))
    return twin


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        is_table = value.ndim <= 1 and value.device.type == "cpu"
        return value if is_table else value.to(device)
    if type(value) in (list, tuple):
        return type(value)(_moved(item, device) for item in value)
    if type(value) is dict:
        return {key: _moved(item, device) for key, item in value.items()}
    # Some schedulers hold another one as their corrector.
    return transferred(value, device) if hasattr(value, "set_timesteps") else value
