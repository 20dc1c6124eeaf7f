"""AdamW whose two moments take 2 bytes or 1 a weight instead of 4 between the steps.

torchao has such optimizers, but they compile themselves at the first step, take their random bits from the global generator, and
cannot skip a step on the device.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from pangu.train.eight_bits import BLOCK, decode, encode

Form = Literal["fp32", "bf16", "int8"]
State = Mapping[str, Tensor]
AT_ONCE = 2**24
"""Weights whose moments are float32 at the same time during a step; a larger tensor is taken by itself."""
LEAST = 4096
"""Tensors with fewer weights keep float32, where 8 bits are asked for; so do those that 256 does not divide."""
MOMENTS = {"exp_avg": True, "exp_avg_sq": False}
"""Their names, and whether they may be negative."""


class CompactAdamW(torch.optim.AdamW):
    """Fused AdamW with moments in bf16 (rounded at random, without bias) or int8 (`eight_bits`). One group.

    Some tensors at a time are made float32, stepped by torch's own kernel and rounded again, so that the figures within a step
    are those of `torch.optim.AdamW`. A skipped step (`found_inf`) changes nothing.

    rounding_seed: to be set before each step; the bits that decide how bf16 is rounded are a function of it.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], form: Form, **options: Any) -> None:
        super().__init__(parameters, fused=True, **options)
        self.rounding_seed = 0
        [group] = self.param_groups
        self._chunks = [MomentChunk(chunk, of) for of, chunk in chunked(group["params"], form)]
        for chunk in self._chunks:
            self.state.update(zip(chunk.parameters, chunk.states, strict=True))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        [group] = self.param_groups
        beta1, beta2 = group["betas"]
        device = self._chunks[0].parameters[0].device
        generator = torch.Generator(device).manual_seed(self.rounding_seed)
        for chunk in self._chunks:
            moments = chunk.read()
            with_gradient = [at for at, parameter in enumerate(chunk.parameters) if parameter.grad is not None]
            first, second = ([views[at] for at in with_gradient] for views in map(chunk.views, moments))
            adamw(
                [chunk.parameters[at] for at in with_gradient],
                [chunk.parameters[at].grad for at in with_gradient],  # type: ignore[misc]
                first,
                second,
                [],
                [chunk.states[at]["step"] for at in with_gradient],
                fused=True,
                grad_scale=getattr(self, "grad_scale", None),
                found_inf=getattr(self, "found_inf", None),
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )
            chunk.write(moments, generator)

    @torch.no_grad()
    def restore(self, states: Mapping[int, State]) -> None:
        """The moments and steps of a checkpoint, by the number of the parameter; those in another form are rounded to nearest."""
        [group] = self.param_groups
        for number, state in states.items():
            parameter = group["params"][number]
            mine = self.state[parameter]
            same = all(name in state and mine[name].dtype == state[name].dtype for name in mine)
            taken = state if same else converted(state, parameter, form_of(mine))
            for name, value in mine.items():
                value.copy_(taken[name])


class MomentChunk:
    """Parameters with their moments in one piece of memory: `states` are views of it, in the shapes of the parameters.

    The pieces follow the parameters' own memory, so that moments have their strides.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], form: Form) -> None:
        self.parameters = list(parameters)
        self._form = form
        size, like = sum(one.numel() for one in parameters), parameters[0]
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.uint8}[form]
        self._kept = {name: torch.zeros(size, dtype=dtype, device=like.device) for name in MOMENTS}
        self._scale: dict[str, Tensor] = {}
        self.states = [{"step": torch.zeros((), device=like.device)} for _ in parameters]
        for name, kept in self._kept.items():
            views = self.views(kept)
            if form == "int8":
                kept.copy_(encode(torch.zeros(BLOCK, device=like.device), MOMENTS[name])[0][0])
                self._scale[name] = torch.zeros(size // BLOCK, device=like.device)
                views = [view.view(-1) for view in views]
                scales = self._scale[name].split([one.numel() // BLOCK for one in parameters])
                for state, scale in zip(self.states, scales, strict=True):
                    state[f"{name}_scale"] = scale
            for state, view in zip(self.states, views, strict=True):
                state[name] = view

    def views(self, flat: Tensor) -> list[Tensor]:
        """Of a tensor as long as all parameters together, the part of each, in its shape and strides."""
        parts, begin = [], 0
        for one in self.parameters:
            parts.append(flat.as_strided(one.shape, one.stride(), begin))
            begin += one.numel()
        return parts

    def read(self) -> list[Tensor]:
        """Both moments as float32 (N,); float32 itself where that is what is kept."""
        if self._form == "int8":
            return [decode(kept, self._scale[name], MOMENTS[name]) for name, kept in self._kept.items()]
        return [kept.float() for kept in self._kept.values()]

    def write(self, moments: Sequence[Tensor], generator: torch.Generator) -> None:
        """Keep what `read` gave and the step changed."""
        for (name, kept), moment in zip(self._kept.items(), moments, strict=True):
            if self._form == "int8":
                codes, scale = encode(moment, MOMENTS[name])
                kept.copy_(codes)
                self._scale[name].copy_(scale)
            elif self._form == "bf16":
                kept.copy_(rounded(moment, generator))


def chunked(parameters: Iterable[nn.Parameter], form: Form) -> Iterator[tuple[Form, list[nn.Parameter]]]:
    """The parameters in groups of one form and at most `AT_ONCE` weights, or one larger parameter."""
    by_form: dict[Form, list[nn.Parameter]] = {}
    for parameter in parameters:
        fits = parameter.numel() >= LEAST and parameter.numel() % BLOCK == 0 and parameter.is_contiguous()
        by_form.setdefault("fp32" if form == "int8" and not fits else form, []).append(parameter)
    for of, members in by_form.items():
        chunk: list[nn.Parameter] = []
        for parameter in members:
            if chunk and sum(one.numel() for one in chunk) + parameter.numel() > AT_ONCE:
                yield of, chunk
                chunk = []
            chunk.append(parameter)
        yield of, chunk


def rounded(values_n: Tensor, generator: torch.Generator) -> Tensor:
    """bf16 of float32 values: up or down at random, so that the mean of many is the value itself. Exact ones stay."""
    bits = torch.randint(0, 1 << 16, values_n.shape, dtype=torch.int32, device=values_n.device, generator=generator)
    return bits.add_(values_n.view(torch.int32)).bitwise_and_(-1 << 16).view(torch.float32).to(torch.bfloat16)


def form_of(state: State) -> Form:
    """In which form the moments of one parameter are."""
    forms: dict[torch.dtype, Form] = {torch.uint8: "int8", torch.bfloat16: "bf16"}
    return forms.get(state["exp_avg"].dtype, "fp32")


def converted(state: State, parameter: Tensor, form: Form) -> dict[str, Tensor]:
    """The state of one parameter in another form, rounded to the nearest value that it has."""
    result = {"step": state["step"]}
    for name, signed in MOMENTS.items():
        value = state[name]
        if form_of(state) == "int8":
            value = decode(value, state[f"{name}_scale"], signed).view(parameter.shape)
        if form == "int8":
            result[name], result[f"{name}_scale"] = encode(value.float().reshape(-1), signed)
        else:
            result[name] = value.to(torch.bfloat16 if form == "bf16" else torch.float32)
    return result
