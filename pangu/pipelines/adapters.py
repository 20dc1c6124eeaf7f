"""Adapters (LoRA) on the generators of a pipeline, by the methods that users of diffusers know, with a role where it is needed.

Which files can be read is `pangu.models.lora_files` and `lora_formats`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pangu.config import Role
from pangu.contract import CONTRACT_FILE, GeneratorContract
from pangu.errors import UserError
from pangu.models import lora
from pangu.models.lora_files import AdapterFile, find_weights
from pangu.pipelines.text_to_image import TextToImagePipeline

BOTH = "both"
Weight = float | Mapping[Role, float]


class AdaptedPipeline(TextToImagePipeline):
    """Each generator can have adapters of its own. Those of one name act, and are weighed and deleted, together."""

    def load_lora_weights(
        self,
        source: str | Path | Mapping[str, Tensor],
        adapter_name: str | None = None,
        *,
        role: Role | str | Sequence[Role] | None = None,
        weight_name: str | None = None,
        subfolder: str | None = None,
        drop_text_encoder: bool = False,
    ) -> None:
        """Put an adapter on one generator or several; it acts alone there until `set_adapters` says otherwise.

        Args:
            source: a .safetensors file, a folder that has one, or its tensors, in any format of `lora_formats`.
            adapter_name: for `set_adapters`; counted where none is given.
            role: the generators that it is for, 'both' for all. None: all that its interval contract fits. An adapter without
                a contract goes only where it is named, or on the only generator of a pipeline.
            weight_name, subfolder: which file in the folder.
            drop_text_encoder: load a file that also has matrices for text encoders, without them.

        Raises:
            UserError: something in the file could not be used, something is missing, or it was trained for something else.
        """
        label, file, contract = _opened(source, weight_name, subfolder)
        roles = self._roles_for(label, contract, role)
        name = adapter_name or self._free_name()
        used = [one for one in roles if name in lora.adapter_names(self._loaded(one))]
        if used:
            raise UserError(f"The {used[0]} generator has an adapter '{name}' already; take another adapter_name.")
        with self._without_offloading():
            fitted = {
                one: lora.fitted(file, self._loaded(one), self.contract(one), label, drop_text_encoder) for one in roles
            }
            for one, layers in fitted.items():
                lora.put_adapter(self._loaded(one), name, layers)

    def save_lora_weights(
        self, save_directory: str | Path, adapter_name: str | None = None, *, role: Role | None = None
    ) -> None:
        """Write one adapter and the contract of its generator into a folder that `load_lora_weights` reads.

        Raises:
            UserError: there is none, or which one is meant is not said.
        """
        there = [
            (one, name)
            for one, names in self.get_list_adapters().items()
            for name in names
            if role in (None, one) and adapter_name in (None, name)
        ]
        if len(there) != 1:
            found = ", ".join(f"'{name}' of {one}" for one, name in there) or "none"
            raise UserError(
                f"One adapter is saved at a time, and adapter_name and role say which; here they leave {found}."
            )
        one, name = there[0]
        lora.save_lora(self.generator(one), self.contract(one), Path(save_directory), name)

    def unload_lora_weights(self) -> None:
        """Take all adapters off; what was fused stays in the weights for good."""
        with self._without_offloading():
            for unet in self._held().values():
                lora.unload_lora(unet)
                lora.forget_fused(unet)

    def unload_lora(self) -> None:
        """Take all adapters off again."""
        self.unload_lora_weights()

    def set_adapters(
        self, adapter_names: str | Sequence[str], adapter_weights: Weight | Sequence[Weight] | None = None
    ) -> None:
        """Let these adapters act together, each at a weight (1), or at one for each role: `{"structure": 0.5}`.

        Raises:
            UserError: no generator has an adapter of that name, or there are more or fewer weights than names.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        self._check_names(names)
        given = adapter_weights if isinstance(adapter_weights, Sequence) else [adapter_weights] * len(names)
        if len(given) != len(names):
            raise UserError(f"set_adapters was given {len(names)} names and {len(given)} weights; one each is needed.")
        for role, unet in self._adapted().items():
            own = [(name, _weight(weight, role)) for name, weight in zip(names, given, strict=True)]
            own = [(name, weight) for name, weight in own if name in lora.adapter_names(unet)]
            lora.set_adapters(unet, [name for name, _ in own], [weight for _, weight in own])

    def get_list_adapters(self) -> dict[Role, list[str]]:
        """The adapters that each generator has."""
        return {role: lora.adapter_names(unet) for role, unet in self._adapted().items()}

    def get_active_adapters(self) -> list[str]:
        """The adapters that act on some generator."""
        return list(dict.fromkeys(name for unet in self._adapted().values() for name in lora.active_adapters(unet)))

    def delete_adapters(self, adapter_names: str | Sequence[str]) -> None:
        """Take these adapters off.

        Raises:
            UserError: no generator has an adapter of that name.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        self._check_names(names)
        with self._without_offloading():
            for unet in self._adapted().values():
                lora.delete_adapters(unet, [name for name in names if name in lora.adapter_names(unet)])

    def enable_lora(self) -> None:
        """Let the adapters act again."""
        for unet in self._adapted().values():
            unet.enable_lora()

    def disable_lora(self) -> None:
        """Draw without the adapters, which stay where they are."""
        for unet in self._adapted().values():
            unet.disable_lora()

    def fuse_lora(
        self,
        lora_scales: Mapping[Role, float] | None = None,
        *,
        components: Sequence[Role] | None = None,
        lora_scale: float = 1.0,
    ) -> None:
        """Make the adapters that act part of the weights, each at its weight times `lora_scale`, or the scale of its role.

        The generators are ordinary ones then, which `save_pretrained` writes. components: the roles, all where none is given.

        Raises:
            UserError: a role is none of this pipeline, or has a scale but no adapter.
        """
        roles, scales = self._known("components", components), dict(lora_scales or {})
        self._check_lora_scales(scales)
        with self._without_offloading():
            for role, unet in self._adapted().items():
                if role in roles:
                    lora.fuse_lora(unet, scales.get(role, lora_scale))

    def unfuse_lora(self) -> None:
        """Take what `fuse_lora` did out of the weights again, up to rounding; it becomes adapters again.

        Raises:
            UserError: nothing is fused, or `unload_lora_weights` was called since, or another adapter has the name of one.
        """
        fused = [unet for unet in self._held().values() if lora.fused_adapters(unet)]
        if not fused:
            raise UserError("No adapter is fused that could be taken out again.")
        for unet in fused:
            lora.check_unfusable(unet)
        with self._without_offloading():
            for unet in fused:
                lora.unfuse_lora(unet)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As diffusers does; a pipeline folder holds whole generators.

        Raises:
            UserError: an adapter is loaded.
        """
        for role in self._adapted():
            raise UserError(
                f"The {role} generator has an adapter; call fuse_lora or unload_lora before saving the pair."
            )
        with self._all_kept():
            super().save_pretrained(*args, **kwargs)

    def _held(self) -> dict[Role, Any]:
        networks = {role: self.generator(role) for role in self._contracts}
        return {role: unet for role, unet in networks.items() if unet is not None}

    def _adapted(self) -> dict[Role, Any]:
        return {role: unet for role, unet in self._held().items() if lora.has_lora(unet)}

    def _loaded(self, role: Role) -> Any:
        if self.generator(role) is None:
            raise UserError(f"This pipeline was loaded without its {role} generator.")
        return self.generator(role)

    def _free_name(self) -> str:
        """As diffusers counts: default_0, default_1, ..."""
        used = {name for names in self.get_list_adapters().values() for name in names}
        used |= {one.name for unet in self._held().values() for one in lora.fused_adapters(unet)}
        return next(name for number in range(len(used) + 1) if (name := f"default_{number}") not in used)

    def _check_names(self, names: Sequence[str]) -> None:
        there = sorted({name for known in self.get_list_adapters().values() for name in known})
        unknown = [name for name in names if name not in there]
        if unknown:
            raise UserError(f"There is no adapter '{unknown[0]}', only {', '.join(there) or 'none'}.")

    def _known(self, argument: str, given: Role | str | Sequence[Role] | None) -> list[Role]:
        """The roles that an argument names; all where none is given."""
        own = list(self._contracts)
        if given is None or given == BOTH:
            return own
        asked = [given] if isinstance(given, str) else list(given)
        found = [role for role in own if role in asked]
        unknown = [name for name in asked if name not in own]
        if unknown:
            raise UserError(f"{argument} may be {', '.join(own)} or '{BOTH}', not {unknown[0]!r}.")
        return found

    def _roles_for(
        self, label: str, contract: GeneratorContract | None, role: Role | str | Sequence[Role] | None
    ) -> list[Role]:
        """The generators that an adapter is for.

        Raises:
            UserError: it was trained for something else, or nobody says what for.
        """
        asked = self._known("role", role)
        if contract is None:
            if role is None and len(asked) > 1:
                raise UserError(
                    f"The adapter at {label} has no {CONTRACT_FILE}, so nobody knows which timesteps it was trained for; "
                    f"say which generator it is for by role ({', '.join(asked)} or '{BOTH}')."
                )
            return asked
        refused: list[UserError] = []
        fits = []
        for one in asked:
            try:
                lora.check_contract(contract, self.contract(one), label)
                fits.append(one)
            except UserError as error:
                refused.append(error)
        if refused and (role is not None or not fits):
            raise refused[0]
        return fits

    @contextmanager
    def _all_kept(self) -> Iterator[None]:
        """No half waits elsewhere meanwhile."""
        place = self.residence
        self.keep_all()
        try:
            yield
        finally:
            if place is not None:
                self.offload_idle(place)

    @contextmanager
    def _without_offloading(self) -> Iterator[None]:
        """Networks as they are without the hooks of an offloading, whose weights may be elsewhere; the hooks come back."""
        from diffusers.hooks.group_offloading import _maybe_remove_and_reapply_group_offloading
        from diffusers.loaders.lora_base import _func_optionally_disable_offloading

        whole, parts, groups = _func_optionally_disable_offloading(self)
        try:
            with self._all_kept():
                yield
        finally:
            if whole:
                self.enable_model_cpu_offload(device=self._offload_device)
            elif parts:
                self.enable_sequential_cpu_offload(device=self._offload_device)
            elif groups:
                for component in self.components.values():
                    if isinstance(component, nn.Module):
                        _maybe_remove_and_reapply_group_offloading(component)


def _weight(given: Weight | None, role: Role) -> float:
    weight = given.get(role, 1.0) if isinstance(given, Mapping) else 1.0 if given is None else float(given)
    if not math.isfinite(weight):
        raise UserError(f"The weight of an adapter must be a finite number, not {weight}.")
    return weight


def _opened(
    source: str | Path | Mapping[str, Tensor], weight_name: str | None, subfolder: str | None
) -> tuple[str, Path | AdapterFile, GeneratorContract | None]:
    """What to call an adapter, what to read, and what it was trained for, where that is written beside it."""
    if isinstance(source, Mapping):
        if not all(isinstance(key, str) and isinstance(value, Tensor | float | int) for key, value in source.items()):
            raise UserError("An adapter given as tensors must be a mapping of names to tensors.")
        return "(tensors)", AdapterFile({key: torch.as_tensor(value) for key, value in source.items()}), None
    path = find_weights(Path(source).expanduser() / (subfolder or ""), weight_name)
    folder = path.parent
    return str(path), path, GeneratorContract.load(folder) if (folder / CONTRACT_FILE).is_file() else None
