"""Running means of the trained weights, one per decay, each kept by diffusers' EMAModel: beside the weights or on the host."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pangu.config import Execution
from pangu.train.host_copies import HostCopies


class Ema:
    """Exponential means of `parameters`; the first is the one that becomes the generator.

    With `ema_device: host` only rank 0 has any: no other worker writes, draws or exports them. With `ema_every: k` the weights
    of every k-th step are taken in, by the product of the decays of k steps: the weights of so many steps ago keep their share.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        decays: tuple[float, ...],
        execution: Execution | None = None,
        rank: int = 0,
    ) -> None:
        execution = execution or Execution()
        self._parameters = list(parameters)
        self.decays = decays
        self._every = execution.ema_every
        on_host = execution.ema_device == "host"
        held = rank == 0 or not on_host
        self._copies = HostCopies(self._parameters) if on_host and held else None
        taken = self._copies.tensors if self._copies else self._parameters
        self._means = [
            EMAModel(taken, decay=decay, use_ema_warmup=True, inv_gamma=1.0, power=0.75, foreach=True)
            for decay in decays
            if held
        ]

    def step(self) -> None:
        """Take the present weights into every mean, as EMAModel's own step does, in one pass over the memory instead of two.

        On the host a thread takes them; this waits for its work of the step before, and for no device.
        """
        for mean in self._means:
            mean.optimization_step += 1
            mean.cur_decay_value = mean.get_decay(mean.optimization_step)
        if not self._means or self._means[0].optimization_step % self._every:
            return
        decays = [self._decay_since_last(mean) for mean in self._means]
        if self._copies is None:
            self._take(self._parameters, decays)
        else:
            copies = self._copies
            copies.hand_over(lambda: self._take(copies.tensors, decays))

    def before_change(self, *_: Any) -> None:
        """To be called before the weights change: the device has them copied first. The host does not wait."""
        if self._copies is not None:
            self._copies.before_change()

    def settle(self) -> None:
        """Wait until the thread has taken in what it was given."""
        if self._copies is not None:
            self._copies.settle()

    @contextmanager
    def applied(self, index: int = 0) -> Iterator[None]:
        """The model has the weights of mean `index` inside, and its own again afterwards."""
        self.settle()
        mean = self._means[index]
        mean.store(self._parameters)
        mean.copy_to(self._parameters)
        try:
            yield
        finally:
            mean.restore(self._parameters)

    def tensors(self) -> dict[str, Tensor]:
        """Every mean as named tensors, 'MEAN.PARAMETER'."""
        self.settle()
        return {f"{m}.{p}": t for m, mean in enumerate(self._means) for p, t in enumerate(mean.shadow_params)}

    def facts(self) -> list[dict[str, Any]]:
        """What is to be remembered beside the tensors."""
        return [{k: v for k, v in mean.state_dict().items() if k != "shadow_params"} for mean in self._means]

    def restore(self, tensors: dict[str, Tensor], facts: list[dict[str, Any]]) -> None:
        """Back to what `tensors` and `facts` gave, in the memory and the layout that the means have."""
        self.settle()
        for m, (mean, remembered) in enumerate(zip(self._means, facts, strict=bool(self._means))):
            mean.load_state_dict(remembered)
            for p, shadow in enumerate(mean.shadow_params):
                shadow.copy_(tensors[f"{m}.{p}"])

    def _decay_since_last(self, mean: EMAModel) -> float:
        now = mean.optimization_step
        return math.prod(mean.get_decay(step) for step in range(now - self._every + 1, now + 1))

    def _take(self, weights: list[Any], decays: list[float]) -> None:
        for mean, decay in zip(self._means, decays, strict=True):
            get_ema_multi_avg_fn(decay)(mean.shadow_params, weights, None)
