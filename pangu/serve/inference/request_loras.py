"""Adapters that requests name, out of a declared list: loaded when first asked for, each on the rows of its requests alone."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pangu.config import Role
from pangu.contract import CONTRACT_FILE, GeneratorContract
from pangu.errors import UserError
from pangu.serve.error_answers import printable
from pangu.serve.inference.messages import Job, LoraJob, Release, RequestError
from pangu.serve.inference.model_cache import ModelCache
from pangu.serve.settings import MAX_LORAS, LoraSettings

if TYPE_CHECKING:
    from pangu.models.row_adapters import Adapter, RowAdapters
    from pangu.pipelines.acting_adapters import ActingAdapters
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline


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
    async def acquire(
        self, pipeline: "PanGuDrawPipeline", release: Release, job: Job
    ) -> "AsyncIterator[ActingAdapters | None]":
        """The adapters of a request, kept until the caller is done with them; None where the server declares none at all.

        Raises:
            RequestError: one does not fit its half.
        """
        if not self._declared:
            yield None
            return
        from pangu.models.row_adapters import RowAdapters
        from pangu.pipelines.acting_adapters import ActingAdapters

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
            yield ActingAdapters(beside, acting, MAX_LORAS)

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
