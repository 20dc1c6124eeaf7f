"""Adapters that requests name, out of a declared list: loaded when first asked for, each on the rows of its requests alone."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pangu.config import Role
from pangu.contract import CONTRACT_FILE, GeneratorContract
from pangu.errors import UserError
from pangu.serve.error_answers import printable
from pangu.serve.inference.messages import Job, LoraJob, Release, RequestError
from pangu.serve.inference.model_cache import ModelCache
from pangu.serve.settings import MAX_LORAS, LoraSettings

if TYPE_CHECKING:
    from torch import Tensor

    from pangu.models.row_adapters import Adapter, RowAdapters
    from pangu.pipelines.generator_model import GeneratorModel
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline
    from pangu.sampling.condition import Condition, Tensors
    from pangu.sampling.question import Denoiser, Network, Question


@dataclass(frozen=True)
class Acting:
    """What acts beside the weights of a half for one request. beside: None where the server declares no adapters at all."""

    beside: "RowAdapters | None" = None
    adapters: "Mapping[Adapter, float]" = field(default_factory=dict)

    @property
    def key(self) -> tuple[tuple[int, float], ...]:
        """What a picture depends on here."""
        return tuple((adapter.number, weight) for adapter, weight in self.adapters.items())

    def on(self, model: "GeneratorModel") -> Any:
        """The model with these adapters. Models of one half share calls whichever they have."""
        return model if self.beside is None else AdaptedModel(model, self.beside, self.adapters)


@dataclass(frozen=True)
class AdaptedModel:
    """A generator whose questions say which adapters their rows have."""

    model: "GeneratorModel"
    beside: "RowAdapters"
    adapters: "Mapping[Adapter, float]"

    def expert(self, timestep: float) -> Role:
        return self.model.expert(timestep)

    def question(
        self, noisy_bchw: "Tensor", timestep_b: "Tensor", tensors: "Tensors", condition: "Condition"
    ) -> "Question":
        from pangu.models.row_adapters import named

        asked = self.model.question(noisy_bchw, timestep_b, tensors, condition)
        beside, pipe, network = self.beside, self.model.pipe, asked.network
        both = replace(
            network,
            key=(network.key, "adapters"),
            set_up=lambda: beside.around(_eager(pipe, network), network.set_up()),
        )
        named_bn = named(self.adapters, MAX_LORAS).expand(asked.rows, -1)
        return replace(asked, network=both, inputs=(*asked.inputs, named_bn))


def _eager(pipe: Any, network: "Network") -> "Denoiser":
    """The network without recordings, which know nothing of the adapters of rows."""
    graphs, pipe.graphs = pipe.graphs, None
    try:
        return network.set_up()
    finally:
        pipe.graphs = graphs


class RequestLoras:
    """The declared adapters of one half; at most `held` are in memory, the least recently used idle one making way."""

    def __init__(self, role: Role, declared: Mapping[str, LoraSettings], held: int) -> None:
        self._role, self._declared, self._held = role, declared, held
        self._adapters: ModelCache[_Wanted, Adapter] = ModelCache(self._load, lambda wanted: wanted.key, held)
        self._acquiring = asyncio.Lock()

    @property
    def loaded(self) -> list[str]:
        """The adapters at hand, as release and name, least recently used first."""
        return self._adapters.ready

    def check(self, job: Job) -> None:
        """Raises RequestError for adapters that are not declared, not for these halves, or too many."""
        check_loras(job.loras, self._declared, self._held)

    @asynccontextmanager
    async def acquire(self, pipeline: "PanGuDrawPipeline", release: Release, job: Job) -> AsyncIterator[Acting]:
        """The adapters of a request, kept until the caller is done with them.

        Raises:
            RequestError: one does not fit its half.
        """
        if not self._declared:
            yield Acting()
            return
        from pangu.models.row_adapters import RowAdapters

        beside = RowAdapters.of(pipeline.generator(self._role))
        async with AsyncExitStack() as stack:
            acting: dict[Adapter, float] = {}
            # One request after the other, or two could wait for each other's places.
            async with self._acquiring:
                for each in job.loras:
                    weight = each.weight_on(self._role)
                    if weight and getattr(self._declared[each.name], self._role) is not None:
                        wanted = _Wanted(f"{release.key(self._role)} {each.name}", each.name, beside, pipeline)
                        acting[await stack.enter_async_context(self._adapters.acquire(wanted))] = weight
            yield Acting(beside, acting)

    def _load(self, wanted: "_Wanted") -> "Adapter":
        from pangu.models.lora import check_contract, fitted
        from pangu.models.lora_files import find_weights

        declared, pipeline = self._declared[wanted.name], wanted.pipeline
        source, contract = Path(getattr(declared, self._role)).expanduser(), pipeline.contract(self._role)
        try:
            file = find_weights(source)
            if (file.parent / CONTRACT_FILE).is_file():
                check_contract(GeneratorContract.load(file.parent), contract, wanted.name)
            network = pipeline.generator(self._role)
            return wanted.beside.add(fitted(file, network, contract, wanted.name, declared.drop_text_encoder))
        except UserError as error:
            reason = str(error).replace(str(source), wanted.name)
            raise RequestError(
                f"Invalid value for 'loras': '{wanted.name}' can not be used: {reason}", "loras"
            ) from error


@dataclass(frozen=True)
class _Wanted:
    key: str
    name: str
    beside: "RowAdapters"
    pipeline: "PanGuDrawPipeline"


def check_loras(asked: tuple[LoraJob, ...], declared: Mapping[str, LoraSettings], held: int) -> None:
    """Raises RequestError for a name that is not declared, one that is named twice, and more than can be held at once."""
    names = [each.name for each in asked]
    for each in asked:
        if each.name not in declared:
            raise _refusal(f"'{printable(each.name)}' is not served; known are {', '.join(declared) or 'none'}")
        for role, weight in each.own.items():
            if weight and getattr(declared[each.name], role) is None:
                raise _refusal(f"'{each.name}' has no adapter for the {role} half")
    if len(names) != len(set(names)):
        raise _refusal("each adapter may be named once")
    if len(names) > held:
        raise _refusal(f"at most {held} can act at once")


def _refusal(reason: str) -> RequestError:
    return RequestError(f"Invalid value for 'loras': {reason}.", "loras")
