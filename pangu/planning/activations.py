"""What a training step keeps in a device's memory beside weights and moments: counted on the meta device, without weights.

One real forward and backward pass, in which every storage that torch allocates is followed to its end, in blocks of 512 bytes as
CUDA's allocator hands them out. The casts are CUDA's autocast, attention the fused kernel, whatever runs here. Not counted: what
kernels use inside themselves. Compiled blocks keep less.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import checkpoint

from pangu.diffusion.noise import Prediction
from pangu.diffusion.training_levels import DiscreteLevels
from pangu.train.randomness import Batch
from pangu.train.step import loss_per_sample

BLOCK = 512
"""Bytes."""
LOWERED = frozenset(
    {F.linear, F.conv2d, F.conv3d, torch.matmul, torch.bmm, torch.baddbmm, F.scaled_dot_product_attention}
)
RAISED = frozenset({F.layer_norm, F.rms_norm, F.group_norm, F.softmax, torch.softmax})
"""Functions of these networks that CUDA's autocast computes in bf16, and in float32; all others take what comes."""


class StepBytes(NamedTuple):
    """Bytes beside weights, moments and means.

    kept: for the backward pass, when the forward pass ends; peak: the most at any time, the gradients that are there by then
    among them unless `gradients_apart`.
    """

    kept: int
    peak: int


class Allocated(TorchDispatchMode):
    """Follows every storage made while it is open: how many bytes there are `now`, and the most there were (`peak`)."""

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, Any] = {id(one): one for one in (tensor.untyped_storage() for tensor in given)}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._follow(tensor.untyped_storage())
        return made

    def _follow(self, storage: torch.UntypedStorage) -> None:
        number = id(storage)
        if number in self._known:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self._known[number] = None
        weakref.finalize(storage, self._freed, number, size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _freed(self, number: int, size: int) -> None:
        del self._known[number]
        self.now -= size


class AsOnCuda(TorchFunctionMode):
    """CUDA's autocast to bf16 where `casts`, with its cache of cast weights, and fused attention, for tensors on any device."""

    def __init__(self, casts: bool) -> None:
        super().__init__()
        self._casts = casts
        self._weights: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if self._casts and (func in LOWERED or func in RAISED):
            dtype = torch.bfloat16 if func in LOWERED else torch.float32
            args, given = tree_map(lambda one: self._cast(one, dtype), (args, given))
        if func is F.scaled_dot_product_attention:
            named = dict(zip(("query", "key", "value"), args, strict=False)) | given
            attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            return attend(named["query"], named["key"], named["value"])[0]
        return func(*args, **given)

    def __exit__(self, *raised: Any) -> None:
        self._weights.clear()
        super().__exit__(*raised)

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == dtype:
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.to(dtype)
        if id(value) not in self._weights:
            self._weights[id(value)] = value.to(dtype)
        return self._weights[id(value)]


def step_bytes(network: nn.Module, batch: Batch, bf16: bool, recomputes: bool, gradients_apart: bool) -> StepBytes:
    """Of one forward and backward pass of `network` over `batch`, both on the meta device, or small and on the CPU.

    recomputes: with gradient checkpointing; gradients_apart: they are somewhere else already, in the buckets that
    workers share or from an earlier part of the batch.
    """
    network.train()
    if recomputes:
        _recompute(network, bf16)
    if gradients_apart:
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda one: setattr(one, "grad", None))
    device = batch.latents_bchw.device
    with Allocated([*network.parameters(), *network.buffers()]) as allocated:
        levels = DiscreteLevels(Prediction("epsilon"), torch.full((1000,), 0.5, device=device))
        with AsOnCuda(bf16):
            loss = loss_per_sample(network, batch, levels).mean()
        kept = allocated.now
        loss.backward()  # type: ignore[no-untyped-call]
        return StepBytes(kept, allocated.peak)


def _recompute(network: Any, bf16: bool) -> None:
    """Gradient checkpointing by torch's own function, which is told to cast as in the first pass when it recomputes."""

    def checkpointed(module: nn.Module, *args: Any) -> Any:
        contexts = lambda: (contextlib.nullcontext(), AsOnCuda(bf16))  # noqa: E731
        return checkpoint(module.__call__, *args, use_reentrant=False, context_fn=contexts)

    network.enable_gradient_checkpointing()
    for module in network.modules():
        if getattr(module, "gradient_checkpointing", False):
            module._gradient_checkpointing_func = checkpointed
