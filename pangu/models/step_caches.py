"""diffusers' hooks that leave out parts of a transformer in some steps, with a memory of its own for every row of a call.

The hooks keep their memory in the network and decide for a whole batch. Here rows are asked one by one, each with the memory of
its own picture and its own part of the guidance, so nothing passes between pictures, requests or halves.
"""

from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, Self
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from pangu.config import Reuse
from pangu.errors import UserError
from pangu.sampling.question import Denoiser

ATTRIBUTE = "_pangu_step_cache"
REGISTRY = "_diffusers_hook"
"""Of diffusers, on a module that has hooks."""
ENDS_WITHOUT_TEXT = "SD3Transformer2DModel"
"""Its last block answers without text, which diffusers' first_block (0.42) fails on in the second step."""


class Memory:
    """What the hooks of one network keep of one row, and the number that rows name it by."""

    _numbers = count(1)

    def __init__(self, places: int) -> None:
        self.number, self._places = next(self._numbers), places
        self.forget()

    def forget(self) -> None:
        """Begin anew: the next step is computed as a whole."""
        self.states: list[dict[str, Any]] = [{} for _ in range(self._places)]


class StepCache:
    """The hooks of one network. Not for several threads at once. Whoever draws holds its memories: nothing here keeps one."""

    def __init__(self, network: nn.Module, reuse: Reuse) -> None:
        self._network, self.reuse = network, reuse
        _apply(network, reuse)
        self._managers = list({id(hook.state_manager): hook.state_manager for _, _, hook in _hooks(network)}.values())
        if not self._managers:
            raise _refused(network, reuse)
        self._known: WeakValueDictionary[int, Memory] = WeakValueDictionary()
        vars(network)[ATTRIBUTE] = self

    @classmethod
    def of(cls, network: Any) -> Self | None:
        """That of a network, if it has one."""
        found: Self | None = vars(network).get(ATTRIBUTE)
        return found

    def remove(self) -> None:
        """Let the network compute every step again."""
        _take_off(self._network)
        vars(self._network).pop(ATTRIBUTE, None)

    def memory(self) -> Memory:
        """An empty one, which lives as long as the caller holds it."""
        found = Memory(len(self._managers))
        self._known[found.number] = found
        return found

    def around(self, ask: Denoiser) -> Denoiser:
        """The network, whose last input names the memory of each row, (rows, 1)."""

        def predict(*inputs: Tensor) -> Tensor:
            *asked, numbers = inputs
            named = [int(number) for number in numbers.flatten().tolist()]
            answers: dict[int, Tensor] = {}  # a batch that is filled up repeats a row, which takes its step once
            try:
                for row, number in enumerate(named):
                    if number not in answers:
                        with _In(self._managers, self._known[number]):
                            answers[number] = ask(*(each[row : row + 1] for each in asked))
            except BaseException:
                for number in named:  # steps that are taken again begin anew
                    self._known[number].forget()
                raise
            return torch.cat([answers[number] for number in named])

        return predict

    def forgetful(self, ask: Denoiser) -> Denoiser:
        """The network for those who keep no memory: every call is computed as a whole."""

        def predict(*inputs: Tensor) -> Tensor:
            with _In(self._managers, Memory(len(self._managers))):
                return ask(*inputs)

        return predict


class _In:
    """Within it, the hooks remember what is in a memory, and keep there what they compute."""

    def __init__(self, managers: Iterable[Any], memory: Memory) -> None:
        self._managers, self._memory = managers, memory

    def __enter__(self) -> None:
        from diffusers.hooks.hooks import CacheContext

        for manager, states in zip(self._managers, self._memory.states, strict=True):
            manager._state_cache = states
            manager.set_context(CacheContext("row"))

    def __exit__(self, *_: object) -> None:
        for manager in self._managers:
            manager._state_cache = {}
            manager.set_context(None)


def _apply(network: nn.Module, reuse: Reuse) -> None:
    """Raises UserError where diffusers' hook does not know the blocks of the network."""
    from diffusers import hooks

    kind = type(network).__name__
    if kind == "UNet2DConditionModel" or (reuse.kind == "first_block" and kind == ENDS_WITHOUT_TEXT):
        raise _refused(network, reuse)
    apply: Callable[..., None]
    if reuse.kind == "first_block":
        apply, config = hooks.apply_first_block_cache, hooks.FirstBlockCacheConfig(threshold=reuse.threshold)
    else:
        apply = hooks.apply_taylorseer_cache
        config = hooks.TaylorSeerCacheConfig(cache_interval=reuse.every, taylor_factors_dtype=torch.float32)
    try:
        apply(network, config)
    except (ValueError, IndexError) as error:
        _take_off(network)
        raise _refused(network, reuse) from error


def _take_off(network: nn.Module) -> None:
    for registry, name, _ in list(_hooks(network)):
        registry.remove_hook(name, recurse=False)
    for module in network.modules():
        # Others take a registry, even an empty one, for a sign that weights are moved.
        if (registry := vars(module).get(REGISTRY)) is not None and not registry.hooks:
            del vars(module)[REGISTRY]


def _hooks(network: nn.Module) -> Iterable[tuple[Any, str, Any]]:
    """(registry, name, hook) of those that keep a memory."""
    for module in network.modules():
        registry = vars(module).get(REGISTRY)
        for name, hook in list(registry.hooks.items()) if registry is not None else []:
            if hasattr(hook, "state_manager"):
                yield registry, name, hook


def _refused(network: nn.Module, reuse: Reuse) -> UserError:
    of_unets = type(network).__name__ == "UNet2DConditionModel"
    instead = "of a UNet deep_features can" if of_unets else "diffusers' hook does not fit its blocks"
    return UserError(f"{reuse.kind} can not be switched on for a {type(network).__name__}; {instead}.")
