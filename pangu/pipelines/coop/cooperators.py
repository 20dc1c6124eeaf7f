"""What a `CoopPipeline` is made of: its models, where they are, and how they are saved."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from diffusers.image_processor import VaeImageProcessor

from pangu.errors import UserError
from pangu.pipelines.coop import build, saving
from pangu.pipelines.coop.adapters import adapter_for
from pangu.pipelines.coop.handoff import Handoff
from pangu.pipelines.coop.loading import load_pipeline
from pangu.pipelines.coop.model_adapter import ModelAdapter
from pangu.pipelines.coop.nested import NestedPipeline
from pangu.pipelines.coop.partner import Partner, names_of


class Cooperators(NestedPipeline):
    """The models of a cooperation as one diffusers pipeline; `CoopPipeline` lets them draw."""

    def __init__(
        self,
        main: Any,
        partners: Any = (),
        handoff: Handoff | None = None,
        *,
        controlnet: Any = None,
        bridge_vae: Any = None,
        batched_guidance: bool = True,
        torch_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.register_to_config(batched_guidance=batched_guidance)
        self.image_processor = VaeImageProcessor(vae_scale_factor=1)
        several = partners if isinstance(partners, (list, tuple)) else [partners]
        self.partners = tuple(partner if isinstance(partner, Partner) else Partner(partner) for partner in several)
        adapter = adapter_for(load_pipeline(main, controlnet, torch_dtype), "main")
        others = tuple(
            adapter_for(load_pipeline(partner.source, partner.controlnet, torch_dtype), name)
            for partner, name in zip(self.partners, names_of(self.partners), strict=True)
        )
        self.models = build.Models(adapter, others, bridge_vae)
        self.handoff, self.batched_guidance = handoff, batched_guidance
        self.low: Cooperators | None = None
        if handoff is not None:
            given = isinstance(handoff.low, Cooperators)
            self.low = handoff.low if given else type(self)(handoff.low, torch_dtype=torch_dtype)
            self.low.rename("low")
        self._check_devices()

    @property
    def main(self) -> Any:
        """The main model's diffusers pipeline."""
        return self.models.main.pipe

    @property
    def adapters(self) -> list[ModelAdapter]:
        """The adapters of all models, the main one first."""
        return [self.models.main, *self.models.partners]

    @property
    def components(self) -> dict[str, Any]:
        """The models, as arguments of this class: `CoopPipeline(**coop.components)` shares them."""
        pipes = [adapter.pipe for adapter in self.models.partners]
        return {
            "main": self.main,
            "partners": tuple(
                replace(partner, source=pipe, controlnet=None)
                for partner, pipe in zip(self.partners, pipes, strict=True)
            ),
            "handoff": None if self.handoff is None else replace(self.handoff, low=self.low),
            "bridge_vae": self.models.main_vae,
        }

    @property
    def pipelines(self) -> list[Any]:
        """Those of all models and of the low-resolution stage, the main one first."""
        inner = [] if self.low is None else self.low.pipelines
        every = [*(adapter.pipe for adapter in self.adapters), *inner]
        return list({id(pipe): pipe for pipe in every}.values())

    @property
    def _loose_models(self) -> list[Any]:
        own = [self.models.main_vae, *(partner.bridge_vae for partner in self.partners)]
        inner = [] if self.low is None else self.low._loose_models
        return [vae for vae in (*own, *inner) if vae is not None]

    @property
    def _autoencoders(self) -> list[Any]:
        own = [adapter.vae for adapter in self.adapters if adapter.vae is not None]
        return [*own, *self._loose_models, *([] if self.low is None else self.low._autoencoders)]

    @property
    def _denoisers(self) -> list[Any]:
        own = [part for adapter in self.adapters for part in adapter.denoisers]
        return own + ([] if self.low is None else self.low._denoisers)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        variant: str | None = None,
    ) -> Self:
        """The cooperation that `save_pretrained` wrote; `dtype` and `variant` as in diffusers. No pickle is read.

        Raises:
            UserError: there is no such folder.
        """
        parts = saving.parts_of(source, dtype or torch_dtype, variant)
        if parts["handoff"] is not None:
            low = cls.from_pretrained(parts["handoff"].pop("low"), dtype=dtype or torch_dtype, variant=variant)
            parts["handoff"] = Handoff(low, **parts["handoff"])
        return cls(**parts)

    @classmethod
    def from_pipe(cls, pipeline: Any, **arguments: Any) -> Self:
        """A cooperation of the same models, or around a single pipeline; arguments are those of this class."""
        if isinstance(pipeline, Cooperators):
            return cls(**{**pipeline.components, "batched_guidance": pipeline.batched_guidance, **arguments})
        return cls(pipeline, **arguments)

    def save_pretrained(self, save_directory: str | Path, **arguments: Any) -> None:
        """Each model's own pipeline folder, and how they cooperate, in one folder; arguments as in diffusers.

        Raises:
            UserError: a partner holds a picture, a tensor or a function, which belongs into the call.
        """
        saving.save(self, Path(save_directory), **arguments)

    def rename(self, prefix: str) -> None:
        """Names for a cooperation inside another one."""
        self.models.main.name = prefix
        for adapter, name in zip(self.models.partners, names_of(self.partners), strict=True):
            adapter.name = f"{prefix} {name}"

    def offload_partners(self, offload: bool = True) -> None:
        """Keep the networks of partners on the CPU while they are idle; each prediction moves them there and back."""
        for adapter in self.models.partners:
            adapter.device_at_work = self.models.main.device
            adapter.offloaded = offload
            for part in adapter.networks:
                part.to("cpu" if offload else adapter.device_at_work)

    def _check_devices(self) -> None:
        home = self.models.main.device
        for adapter in self.models.partners:
            if adapter.device != home:
                raise UserError(
                    f"{adapter.name} is on {adapter.device}, but main on {home}; move both with `.to(...)`."
                )
