"""diffusers' hooks that leave out parts of a transformer in some steps, with a memory of its own for every request.

The hooks keep their memory in the network and decide for a whole batch. Here each request is asked by itself, in calls that are
always of its own rows, so nothing passes between requests or halves. Where a hook looks at what is drawn to decide (first_block),
rows are asked one by one, each with its own memory.
"""

from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, Self
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from pangu.config import Reuse
from pangu.errors import UserError
from pangu.models.magnitudes import Magnitudes
from pangu.sampling.question import Denoiser

ATTRIBUTE = "_pangu_step_cache"
REGISTRY = "_diffusers_hook"
"""Of diffusers, on a module that has hooks."""
WITHOUT_END, WHOLE_AT_FIRST = 10**9, 2
"""Steps that mag is told there are, and those of a half's first that it leaves whole."""
LOOKS = ("first_block",)
"""What decides by the rows that it is shown; the others count steps and timesteps."""
FAILS_ON = {"first_block": ("SD3Transformer2DModel", "ZImageTransformer2DModel"), "mag": ("ZImageTransformer2DModel",)}
"""What diffusers' hooks (0.42) take and then fail on: Stable Diffusion 3's last block answers without text, and Z-Image's call
what they are given otherwise."""
ATTENTIONS = (r"(blocks|(single_)?transformer_blocks)\..*attn[12]?", r"(layers|.*refiner)\..*attention")
"""What taylor extrapolates. diffusers' own patterns lack attn1, attn2 and attention, so SANA, PixArt, Wan and Z-Image."""


class Memory:
    """What the hooks of one network keep of some rows that are always asked together, and the number that rows name it by."""

    _numbers = count(1)

    def __init__(self, places: int, rows: int = 1) -> None:
        self.number, self.rows, self._places = next(self._numbers), rows, places
        self.forget()

    def forget(self) -> None:
        """Begin anew: the next step is computed as a whole."""
        self.timestep: float | None = None
        self.states: list[dict[str, Any]] = [{} for _ in range(self._places)]


class StepCache:
    """The hooks of one network. Not for several threads at once. Whoever draws holds its memories: nothing here keeps one."""

    def __init__(self, network: nn.Module, reuse: Reuse) -> None:
        self._network, self.reuse = network, reuse
        kind = type(network).__name__
        if kind == "UNet2DConditionModel" or kind in FAILS_ON.get(reuse.kind, ()):
            raise _refused(network, reuse)
        self._magnitudes = Magnitudes.of(network) if reuse.kind == "mag" else None
        _apply(network, reuse)
        self._configs = [hook.config for _, _, hook in _hooks(network) if hasattr(hook, "config")]
        self._seen: list[tuple[float, float]] | None = None
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

    def memories(self, rows: int) -> list[Memory]:
        """Empty ones for the rows of a request, which live as long as the caller holds them: one, or one for each row."""
        apart = self.reuse.kind in LOOKS
        found = [Memory(len(self._managers), 1 if apart else rows) for _ in range(rows if apart else 1)]
        self._known.update({memory.number: memory for memory in found})
        return found

    def around(self, ask: Denoiser) -> Denoiser:
        """The network, whose last input says of each row the number of its memory and its place in it, (rows, 2).

        Rows of one memory stand together and in their order.
        """

        def predict(*inputs: Tensor) -> Tensor:
            *asked, named = inputs
            seats = [(int(number), int(place)) for number, place in named.tolist()]
            answers: dict[int, Tensor] = {}  # a batch that is filled up repeats rows, which take their step once
            try:
                for first, (number, _) in enumerate(seats):
                    if number not in answers:
                        memory = self._known[number]
                        with _In(self._managers, memory):
                            self._begin(memory, float(asked[1][first]))
                            answers[number] = ask(*(each[first : first + memory.rows] for each in asked))
                            self._look(memory)
            except BaseException:
                for number, _ in seats:  # steps that are taken again begin anew
                    self._known[number].forget()
                raise
            return torch.cat([answers[number][place : place + 1] for number, place in seats])

        return predict

    def measure(self) -> list[tuple[float, float]]:
        """Compute every step as a whole, and put (timestep, mean length of what the blocks add) in this list."""
        self._seen = []
        for config in self._configs:
            config.max_skip_steps = 0
        return self._seen

    def _begin(self, memory: Memory, timestep: float) -> None:
        """Before a step of a row. The hooks would take ratios of one number of steps; here they follow from the timesteps."""
        if self._magnitudes is not None:
            ratio = 1.0 if memory.timestep is None else self._magnitudes.ratio(memory.timestep, timestep)
            for config in self._configs:
                config.mag_ratios = _AtEveryStep(ratio)
        memory.timestep = timestep

    def _look(self, memory: Memory) -> None:
        if self._seen is not None and memory.timestep is not None:
            for state in (state for manager in self._managers for state in manager._state_cache.values()):
                self._seen.append((memory.timestep, float(state.previous_residual.float().norm(dim=-1).mean())))

    def forgetful(self, ask: Denoiser) -> Denoiser:
        """The network for those who keep no memory: every call is computed as a whole."""

        def predict(*inputs: Tensor) -> Tensor:
            with _In(self._managers, Memory(len(self._managers))):
                return ask(*inputs)

        return predict


class _AtEveryStep:
    """A list of ratios, as the hook reads it, that says the same of every step."""

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio

    def __len__(self) -> int:
        return WITHOUT_END

    def __getitem__(self, step: int) -> float:
        return self._ratio


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

    _tell_of_sana()
    apply: Callable[..., None]
    if reuse.kind == "first_block":
        apply, config = hooks.apply_first_block_cache, hooks.FirstBlockCacheConfig(threshold=reuse.threshold)
    elif reuse.kind == "mag":
        apply = hooks.apply_mag_cache
        config = hooks.MagCacheConfig(
            threshold=reuse.threshold, max_skip_steps=reuse.every - 1, mag_ratios=[1.0], num_inference_steps=1
        )
        # The first steps of a row are whole, and the hook never begins anew by itself.
        config.num_inference_steps, config.retention_ratio = WITHOUT_END, WHOLE_AT_FIRST / WITHOUT_END
    else:
        apply = hooks.apply_taylorseer_cache
        config = hooks.TaylorSeerCacheConfig(
            cache_interval=reuse.every, taylor_factors_dtype=torch.float32, cache_identifiers=list(ATTENTIONS)
        )
    try:
        apply(network, config)
    except (ValueError, IndexError) as error:
        _take_off(network)
        raise _refused(network, reuse) from error


def _tell_of_sana() -> None:
    """diffusers' hooks (0.42) lack SANA's blocks, which take and return the latents alone."""
    from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
    from diffusers.models.transformers.sana_transformer import SanaTransformerBlock

    try:
        TransformerBlockRegistry.get(SanaTransformerBlock)
    except ValueError:
        TransformerBlockRegistry.register(SanaTransformerBlock, TransformerBlockMetadata(return_hidden_states_index=0))


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
