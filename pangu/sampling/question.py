"""What a step asks of networks. A step is a generator: it yields questions and is sent the answers, so whoever drives it decides
whether a network answers at once or together with what others ask of it.
"""

from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from pangu.sampling.condition import Condition, Tensors, guided_prediction, joined

Denoiser = Callable[..., Tensor]
"""Tensors whose first dimension is the rows -> the answer (rows, C or more, H, W); first of them the noisy latents
(rows, C, H, W) and the timesteps (rows,), which are on the CPU."""

Result = TypeVar("Result")
Asking = Generator["Question", Tensor, Result]
"""Yields questions, is sent the answer to each, and returns its result."""


@dataclass(frozen=True)
class Network:
    """A network in one setting. Equal ones may be asked in one batch.

    owner: of the weights; two settings of one owner are never ready at once. setting: what is set on the weights, such as the
    scale of an adapter. key: what an answer depends on beside these and the inputs. set_up: makes it ready to be asked.
    """

    owner: Hashable
    setting: Hashable
    key: Hashable
    set_up: Callable[[], Denoiser] = field(compare=False)


@dataclass(frozen=True)
class Question:
    """One call of a network.

    inputs: as `Denoiser` takes them; each has the same number of rows. then: makes the answer of what the network says, once.
    """

    network: Network
    inputs: tuple[Tensor, ...]
    then: Callable[[Tensor], Tensor] | None = field(default=None, compare=False)

    @property
    def rows(self) -> int:
        return len(self.inputs[0])

    @property
    def kind(self) -> Hashable:
        """Questions of one kind can share a call."""
        return self.network, tuple((each.shape[1:], each.dtype) for each in self.inputs)


class Model(Protocol):
    """What takes part in a denoising process."""

    def question(self, noisy_bchw: Tensor, timestep_b: Tensor, tensors: Tensors, condition: Condition) -> Question:
        """The call of the network that owns this timestep; `tensors` are parts of `condition`, as many rows as the latents."""
        ...


def ask(model: Any, noisy_bchw: Tensor, timestep: Tensor, condition: Condition) -> Asking[Tensor]:
    """The guided prediction (B, C or more, H, W), float32, at a timestep that need not be an index.

    model: a `Model`, with `expert(timestep)` where the condition is not the same for all of its networks.
    noisy_bchw: (B, C, H, W) in the scale that the network was trained with. timestep: without dimensions, on the CPU.
    """
    if not condition.is_one:
        condition = condition.of(model.expert(float(timestep)))
    condition = condition.at(float(timestep))
    parts = condition.parts
    answers: list[Tensor] = []
    for group in [parts] if condition.batched else [[part] for part in parts]:
        noisy = torch.cat([noisy_bchw] * len(group)) if len(group) > 1 else noisy_bchw
        # Embeddings of timesteps are made of float32, whatever the weights' dtype.
        asked = model.question(noisy, timestep.float().expand(len(noisy)), joined(group), condition)
        answer = yield asked
        answers += (answer if asked.then is None else asked.then(answer)).chunk(len(group))
    return guided_prediction(answers, condition, noisy_bchw.shape[1])


class Networks:
    """Networks that are ready to be asked, of the few owners that were asked last. wrap: put around each."""

    MOST_OWNERS, MOST_KEYS = 6, 32

    def __init__(self, wrap: Callable[[Denoiser], Denoiser] | None = None) -> None:
        self._wrap = wrap
        self._ready: dict[Hashable, tuple[Hashable, dict[Hashable, Denoiser]]] = {}

    def of(self, network: Network) -> Denoiser:
        """Set up, if it was not, or if another setting of the same weights was meanwhile."""
        setting, ready = self._ready.pop(network.owner, (network.setting, {}))
        if setting != network.setting or len(ready) >= self.MOST_KEYS:
            ready = {}
        self._ready[network.owner] = network.setting, ready
        if len(self._ready) > self.MOST_OWNERS:
            del self._ready[next(iter(self._ready))]
        if network.key not in ready:
            made = network.set_up()
            ready[network.key] = made if self._wrap is None else self._wrap(made)
        return ready[network.key]

    def clear(self) -> None:
        """Hold on to no network, and set each up again before it is asked."""
        self._ready = {}


def answered(asking: Asking[Result], networks: Networks) -> Result:
    """What `asking` returns, each of its questions answered at once."""
    try:
        question = next(asking)
        while True:
            question = asking.send(networks.of(question.network)(*question.inputs))
    except StopIteration as end:
        result: Result = end.value
        return result


@dataclass(frozen=True)
class DenoiserModel:
    """A bare function of latents, timesteps, text tokens and pooled text as a model."""

    denoiser: Any

    def question(self, noisy_bchw: Tensor, timestep_b: Tensor, tensors: Tensors, condition: Condition) -> Question:
        network = Network(id(self.denoiser), None, None, lambda: self.denoiser)
        return Question(network, (noisy_bchw, timestep_b, tensors["tokens"], tensors["pooled"]))
