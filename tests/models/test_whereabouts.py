"""Where networks compute is what diffusers says, with hooks and without."""

from collections.abc import Callable
from typing import Any

import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_module
from diffusers.hooks import apply_group_offloading, apply_layerwise_casting

from pangu.models.whereabouts import device_of, dtype_of, is_hooked
from pangu.pipelines.assemble import untrained_pair
from pangu.recipes import tiny
from tests import subtests

HOOKS: dict[str, Callable[[Any], object]] = {
    "none": lambda network: network,
    "bf16": lambda network: network.to(torch.bfloat16),
    "casting": lambda network: apply_layerwise_casting(network, torch.float8_e4m3fn, torch.float32),
    "groups": lambda network: apply_group_offloading(network, torch.device("cpu"), offload_type="leaf_level"),
    "accelerate": lambda network: cpu_offload(network, torch.device("cpu")),
}


@subtests.parametrize("name", list(HOOKS))
def test_what_is_said_is_what_diffusers_says(name: str) -> None:
    pair = untrained_pair(tiny())
    before = is_hooked(pair.structure)
    HOOKS[name](pair.structure)
    assert not before and is_hooked(pair.structure) == (name not in ("none", "bf16"))
    assert dtype_of(pair.structure) == pair.structure.dtype
    assert (device_of([pair.vae, pair.structure]) is None) == is_hooked(pair.structure)
    assert pair._execution_device == super(type(pair), pair)._execution_device == torch.device("cpu")
    assert pair.device == pair.structure.device or name == "accelerate"
    if name == "accelerate":
        remove_hook_from_module(pair.structure, recurse=True)
        assert not is_hooked(pair.structure)


def test_an_accelerator_is_named_before_the_cpu() -> None:
    here, there = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, device="meta")
    assert device_of([there, here]) == torch.device("meta") and device_of([]) is None
    assert device_of([torch.nn.ReLU()]) is None
