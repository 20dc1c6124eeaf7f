"""A diffusers pipeline that is made of pipelines: what diffusers asks of one, asked of each."""

from typing import Any, Self

import torch
from diffusers import DiffusionPipeline

from pangu.pipelines.call_state import CallState
from pangu.pipelines.switches import Switches


class NestedPipeline(CallState, Switches, DiffusionPipeline):
    """Devices, dtypes, offloading and switches of several pipelines at once.

    Models that no pipeline holds (`_loose_models`) are moved along, and lie where the first pipeline computes while that one's
    models are offloaded.
    """

    @property
    def pipelines(self) -> list[Any]:
        """Every pipeline, each once; the first says where and in which dtype the whole computes."""
        raise NotImplementedError

    @property
    def _loose_models(self) -> list[Any]:
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where the first pipeline's models are."""
        return torch.device(self.pipelines[0].device)

    @property
    def dtype(self) -> torch.dtype:
        """Of the first pipeline's models."""
        dtype: torch.dtype = self.pipelines[0].dtype
        return dtype

    @property
    def _execution_device(self) -> torch.device:
        return torch.device(self.pipelines[0]._execution_device)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move every model to a device, or to a dtype, as `DiffusionPipeline.to` does."""
        for part in self.pipelines:
            part.to(*args, **kwargs)
        kwargs.pop("silence_dtype_warnings", None)
        for model in self._loose_models:
            model.to(*args, **kwargs)
        return self

    def enable_model_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        """Each model is on the accelerator while it computes, and makes room for the next one of its pipeline."""
        self._offload("enable_model_cpu_offload", *args, **kwargs)

    def enable_sequential_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        """Each layer is on the accelerator while it computes."""
        self._offload("enable_sequential_cpu_offload", *args, **kwargs)

    def enable_group_offload(self, *args: Any, **kwargs: Any) -> None:
        """Groups of layers are on the accelerator while they compute."""
        self._offload("enable_group_offload", *args, **kwargs)

    def remove_all_hooks(self) -> None:
        """Take the hooks of offloading off again."""
        self._each("remove_all_hooks")

    def maybe_free_model_hooks(self) -> None:
        """After a call: offloaded models leave the accelerator."""
        self._each("maybe_free_model_hooks")

    def reset_device_map(self) -> None:
        """Forget how `device_map` spread the models."""
        self._each("reset_device_map")

    def set_attention_slice(self, slice_size: str | int | None) -> None:
        """Attention in slices; None takes it in one step."""
        self._each("set_attention_slice", slice_size)

    def set_use_memory_efficient_attention_xformers(self, valid: bool, attention_op: Any = None) -> None:
        """Attention by xFormers."""
        self._each("set_use_memory_efficient_attention_xformers", valid, attention_op)

    def _offload(self, name: str, *args: Any, **kwargs: Any) -> None:
        self._each(name, *args, **kwargs)
        for model in self._loose_models:
            model.to(self._execution_device)

    def _each(self, name: str, *args: Any, **kwargs: Any) -> None:
        for part in self.pipelines:
            getattr(part, name)(*args, **kwargs)
