"""Running means of the trained weights, one per decay, each kept by diffusers' EMAModel."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Averages:
    """Exponential means of `parameters`; the first is the one that becomes the generator."""

    def __init__(self, parameters: Iterable[nn.Parameter], decays: tuple[float, ...]) -> None:
        self._parameters = list(parameters)
        self.decays = decays
        self._means = [
            EMAModel(self._parameters, decay=decay, use_ema_warmup=True, inv_gamma=1.0, power=0.75, foreach=True)
            for decay in decays
        ]

    def step(self) -> None:
        """Take the present weights into every mean, as EMAModel's own step does, in one pass over the memory instead of two."""
        for mean in self._means:
            mean.optimization_step += 1
            mean.cur_decay_value = mean.get_decay(mean.optimization_step)
            get_ema_multi_avg_fn(mean.cur_decay_value)(mean.shadow_params, self._parameters, None)

    @contextmanager
    def applied(self, index: int = 0) -> Iterator[None]:
        """The model has the weights of mean `index` inside, and its own again afterwards."""
        mean = self._means[index]
        mean.store(self._parameters)
        mean.copy_to(self._parameters)
        try:
            yield
        finally:
            mean.restore(self._parameters)

    def tensors(self) -> dict[str, Tensor]:
        """Every mean as named tensors, 'MEAN.PARAMETER'."""
        return {f"{m}.{p}": t for m, mean in enumerate(self._means) for p, t in enumerate(mean.shadow_params)}

    def facts(self) -> list[dict[str, Any]]:
        """What is to be remembered beside the tensors."""
        return [{k: v for k, v in mean.state_dict().items() if k != "shadow_params"} for mean in self._means]

    def restore(self, tensors: dict[str, Tensor], facts: list[dict[str, Any]]) -> None:
        """Back to what `tensors` and `facts` gave, in the memory and the layout that the means have."""
        for m, (mean, remembered) in enumerate(zip(self._means, facts, strict=True)):
            mean.load_state_dict(remembered)
            for p, shadow in enumerate(mean.shadow_params):
                shadow.copy_(tensors[f"{m}.{p}"])
