"""One place on a device for several networks: the one that was asked last is there, the weights of the others wait on the host.

A network's weights are copied to the host once, and from there to the device whenever its turn begins; what leaves is dropped and
not copied back, so nobody may change weights meanwhile.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor, nn

from pangu.errors import UserError
from pangu.sampling.question import Denoiser

ATTRIBUTE = "_pangu_waiting_weights"


class _Waiting(NamedTuple):
    """A weight and whose it is. table: `_parameters` or `_buffers` of that module."""

    module: nn.Module
    table: str
    name: str
    host: Tensor


class Residence:
    """The place. Not for several threads at once."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._there: Callable[[], nn.Module | None] = lambda: None

    def add(self, network: nn.Module) -> None:
        """Let a network wait for its turn.

        Raises:
            UserError: it waits already, or others move its weights.
        """
        if ATTRIBUTE in vars(network):
            raise UserError(f"A {type(network).__name__} can wait for one device alone; give it back first.")
        if any(map(_is_moved, network.modules())):
            raise UserError(
                f"The weights of a {type(network).__name__} are moved by hooks already; remove these first."
            )
        network.to("cpu")
        vars(network)[ATTRIBUTE] = [
            _Waiting(module, table, name, weight.pin_memory() if _can_be_pinned(weight, self.device) else weight)
            for module in network.modules()
            for table in ("_parameters", "_buffers")
            for name, weight in getattr(module, table).items()
            if weight is not None
        ]
        _leave(network)

    def give_back(self, network: nn.Module) -> None:
        """A network with its weights on the host, as any other."""
        for module, table, name, host in vars(network).pop(ATTRIBUTE):
            getattr(module, table)[name] = host
        if self._there() is network:
            self._there = lambda: None

    def bring(self, network: nn.Module) -> None:
        """Let a network that waits be on the device, after whoever is there has left."""
        there = self._there()
        if there is network:
            return
        if there is not None and ATTRIBUTE in vars(there):
            _leave(there)
        for module, table, name, host in vars(network)[ATTRIBUTE]:
            getattr(module, table)[name] = _like(host, host.to(self.device, non_blocking=True))
        self._there = ref(network)

    def around(self, network: nn.Module, ask: Denoiser) -> Denoiser:
        """The network, brought before it is asked."""

        def predict(*inputs: Tensor) -> Tensor:
            self.bring(network)
            return ask(*inputs)

        return predict


def is_waiting(network: Any) -> bool:
    """Whether a residence decides where the weights of a network are."""
    return network is not None and ATTRIBUTE in vars(network)


def weights_on_device(network: nn.Module) -> Iterator[Tensor]:
    """Of a network whose turn it is, all; of one that waits, none."""
    yield from (weight for weight in (*network.parameters(), *network.buffers()) if not weight.is_meta)


def _is_moved(module: nn.Module) -> bool:
    """Whether a hook of accelerate or diffusers moves weights; those with a memory of steps move none."""
    registry = vars(module).get("_diffusers_hook")
    others = (
        [] if registry is None else [hook for hook in registry.hooks.values() if not hasattr(hook, "state_manager")]
    )
    return "_hf_hook" in vars(module) or bool(others)


def _leave(network: nn.Module) -> None:
    for module, table, name, host in vars(network)[ATTRIBUTE]:
        # Of a shape and a dtype, which others read, and of no memory.
        getattr(module, table)[name] = _like(host, torch.empty(host.shape, dtype=host.dtype, device="meta"))


def _like(weight: Tensor, value: Tensor) -> Tensor:
    return nn.Parameter(value, requires_grad=False) if isinstance(weight, nn.Parameter) else value


def _can_be_pinned(weight: Tensor, device: torch.device) -> bool:
    return device.type == "cuda" and type(weight.data) is Tensor
