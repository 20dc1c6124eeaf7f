"""What a network does on a GPU, recorded once for each shape and replayed without Python (CUDA graphs).

Small batches are bound by Python, not by the GPU. A recording reads weights and inputs where they lie: weights that are changed
in place count from the next replay on; whatever else the kernels depend on is part of a recording's key.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from pangu.errors import UserError
from pangu.models.inner_tensors import inner_tensors

Run = Callable[..., Tensor]
"""Tensors on one device -> a tensor on the same device; computes the same whenever they hold the same, and waits for nothing."""
Replay = Callable[[], Tensor]
"""Runs again on what the tensors hold that were recorded with; each time into the same result."""
Record = Callable[[Run, Sequence[Tensor], Replay | None], Replay]
"""(run, its inputs, another replay whose working memory may be shared, because both never run at once) -> replay."""

SWITCHES = {"_active_adapter", "_disable_adapters", "merged_adapters", "processor", "scaling", "s1", "s2", "b1", "b2"}
"""Attributes of modules that change what they compute: those of peft's layers, attention processors, FreeU."""
HOOKS = {"_hf_hook", "_diffusers_hook"}
"""What accelerate and diffusers leave on modules whose weights they move."""

log = logging.getLogger(__name__)


class Graphs:
    """The recordings of the networks of one pipeline. Not for several threads at once.

    record: makes them; where it fails, the network runs as it is, which is said once.
    most: recordings kept; the least recently used makes way. They share working memory, so each costs little but its result.
    """

    def __init__(self, record: Record | None = None, most: int = 128) -> None:
        self._record: Record = record or CudaReplay
        self._most = most
        self._kept: OrderedDict[Hashable, _Recording | None] = OrderedDict()
        self._weights: dict[str, Hashable] = {}
        self._said = False
        self.recorded = 0
        """Recordings made so far."""

    def __len__(self) -> int:
        return sum(kept is not None for kept in self._kept.values())

    def of(self, name: str, network: nn.Module, numbers: Hashable, run: Run) -> Run:
        """`run` of one network, replayed; its result is a tensor of its own.

        name: of the network. numbers: all that `run` depends on beside the weights and switches of the network, and its inputs.
        The network must not change before the next call of `of`, but for the values of its weights.
        """
        weights, switches, hooked = _state(network)
        if hooked:
            self._say("its weights are moved while it works")
            return run
        if self._weights.get(name) != weights:
            # The memory that these read may belong to somebody else by now.
            self._kept = OrderedDict((key, kept) for key, kept in self._kept.items() if key[0] != name)  # type: ignore[index]
            self._weights[name] = weights
        about = name, numbers, switches

        def replayed(*inputs: Tensor) -> Tensor:
            key = *about, tuple((each.shape, each.dtype, each.device) for each in inputs)
            if key not in self._kept:
                return self._first(key, run, inputs)
            self._kept.move_to_end(key)
            recording = self._kept[key]
            return run(*inputs) if recording is None else recording.answer(inputs)

        return replayed

    def _first(self, key: Hashable, run: Run, inputs: Sequence[Tensor]) -> Tensor:
        while len(self._kept) >= self._most:
            self._kept.popitem(last=False)
        beside = next((kept.replay for kept in self._kept.values() if kept is not None), None)
        try:
            recording = _Recording.of(run, inputs, self._record, beside)
            answer = recording.answer(inputs)
        except Exception as error:
            answer = run(*inputs)  # raises where it is the question that is wrong
            self._kept[key] = None
            self._say((str(error).strip() or type(error).__name__).splitlines()[0])
            return answer
        self._kept[key] = recording
        self.recorded += 1
        return answer

    def _say(self, reason: str) -> None:
        if not self._said:
            self._said = True
            log.warning("A network could not be captured, so it runs as it is: %s", reason)


class _Recording(NamedTuple):
    """inputs: the tensors that it reads."""

    inputs: tuple[Tensor, ...]
    replay: Replay

    @classmethod
    def of(cls, run: Run, inputs: Sequence[Tensor], record: Record, beside: Replay | None) -> Self:
        # Tensors of inference mode could not be written outside of it.
        with torch.inference_mode(False), torch.no_grad():
            own = tuple(torch.empty_like(each, memory_format=torch.contiguous_format) for each in inputs)
            _write(own, inputs)
        with torch.inference_mode():
            return cls(own, record(run, own, beside))

    def answer(self, inputs: Sequence[Tensor]) -> Tensor:
        with torch.inference_mode():
            _write(self.inputs, inputs)
            return self.replay().clone()


def _write(into: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for own, value in zip(into, values, strict=True):
        own.copy_(value, non_blocking=True)


def _state(network: nn.Module) -> tuple[Hashable, Hashable, bool]:
    """(where each weight lies and in which shape, the switches, whether weights move while it works); 3 ms for half of SDXL."""
    weights, switches = [], []
    for place, module in enumerate(network.modules()):
        own = vars(module)
        if not HOOKS.isdisjoint(own):
            return (), (), True
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                weights += [(part.data_ptr(), part.shape, part.dtype) for _, part in inner_tensors(tensor)]
        switches += [(place, name, _told(own[name])) for name in SWITCHES.intersection(own)]
    return tuple(weights), (network.training, *sorted(switches)), False


def _told(switch: Any) -> str:
    """Attention processors by their class and scale; numbers, names and tables of them as they are."""
    if isinstance(switch, (bool, int, float, str, list, tuple, dict, set)):
        return repr(switch)
    return f"{type(switch).__name__} {getattr(switch, 'scale', None)!r}"


class CudaReplay:
    """One CUDA graph. Other threads may load weights meanwhile; this one must use the device for nothing else.

    Raises:
        UserError: the tensors are on no CUDA device.
    """

    def __init__(self, run: Run, inputs: Sequence[Tensor], beside: Replay | None = None) -> None:
        device = inputs[0].device
        if device.type != "cuda":
            raise UserError(f"only CUDA devices record what they do, and its tensors are on {device}")
        with torch.cuda.device(device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                run(*inputs)  # libraries choose kernels and take workspaces at the first call
            torch.cuda.current_stream().wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            pool = beside._graph.pool() if isinstance(beside, CudaReplay) else None
            with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
                self._result = run(*inputs)

    def __call__(self) -> Tensor:
        self._graph.replay()
        return self._result
