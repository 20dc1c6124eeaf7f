"""Styles of a pair that are adapters of its halves: components of its folder, which act on the rows that ask for them."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from pangu.config import ROLES, Role
from pangu.contract import CONTRACT_FILE, GeneratorContract
from pangu.errors import UserError
from pangu.models.lora import check_contract, fitted
from pangu.models.lora_files import find_weights
from pangu.models.row_adapters import Adapter, RowAdapters
from pangu.models.step_caches import StepCache
from pangu.models.style_adapters import StyleAdapters
from pangu.pipelines.acting_adapters import ActingAdapters


def component_of(role: Role) -> str:
    """The component that holds the styles of a half."""
    return f"{role}_styles"


class AdaptedStyles:
    """Those of the halves of a pipeline, as they are asked for: on the device and in the dtype of the half."""

    def __init__(self, pipe: Any) -> None:
        """Raises UserError where a component does not fit its half, or a style has a prefix, too."""
        self._pipe = pipe
        self._held: dict[tuple[Role, str], tuple[Hashable, Adapter]] = {}
        for role in ROLES:
            if (own := self._of(role)) is not None and (network := pipe.generator(role)) is not None:
                own.check(network, role)
        if twice := [name for name in self.names if name in (pipe.config.get("styles") or {})]:
            raise UserError(f"The style '{twice[0]}' of this pair has a prefix and adapters; it can have one of both.")

    @property
    def names(self) -> tuple[str, ...]:
        every = [style for role in ROLES if (own := self._of(role)) is not None for style in own.styles]
        return tuple(dict.fromkeys(every))

    def acting(self, role: Role, scales: Mapping[str, float]) -> ActingAdapters | None:
        """What acts on the rows of a request for these styles; None where this half has none at all.

        Raises:
            UserError: the half is compiled, or reuses steps in a way that asks a part of the rows.
        """
        own = self._of(role)
        if own is None:
            return None
        network = self._pipe.generator(role)
        asked = {style: scale for style, scale in scales.items() if scale and style in own.styles}
        if asked:
            _check(network, own, role)
        beside = RowAdapters.of(network)
        adapters = {self._adapter(role, style, own, network, beside): scale for style, scale in asked.items()}
        return ActingAdapters(beside, adapters, len(own.styles))

    def _of(self, role: Role) -> StyleAdapters | None:
        return getattr(self._pipe, component_of(role), None)

    def _adapter(self, role: Role, style: str, own: StyleAdapters, network: Any, beside: RowAdapters) -> Adapter:
        # Networks are moved, cast and exchanged between requests. Held themselves, for an address alone may be given out again.
        place = own, network, network.device, network.dtype
        held = self._held.get((role, style))
        if held is None or held[0] != place:
            held = self._held[role, style] = place, beside.add(own.matrices(style))
        return held[1]


def with_style(pipe: Any, role: Role, name: str, source: Path) -> StyleAdapters:
    """The styles of a half, and one more, or another in the place of one: the adapter at `source`, a folder or a file.

    Raises:
        UserError: the adapter does not fit the half, or was trained for another one.
    """
    network, contract = pipe.generator(role), pipe.contract(role)
    if network is None:
        raise UserError(f"This pipeline was loaded without its {role} generator.")
    file = find_weights(source)
    if (file.parent / CONTRACT_FILE).is_file():
        check_contract(GeneratorContract.load(file.parent), contract, str(source))
    before: StyleAdapters | None = getattr(pipe, component_of(role))
    known = {} if before is None else {style: before.matrices(style) for style in before.styles}
    return StyleAdapters.of({**known, name: fitted(file, network, contract, str(source))})


def _check(network: Any, own: StyleAdapters, role: Role) -> None:
    if "meta" in (network.device.type, own.device.type):
        raise UserError("The styles of this pair are adapters, which sequential offloading does not know.")
    if StepCache.of(network) is not None:
        raise UserError(
            f"The styles of this pair are adapters, and the {role} half reuses steps in a way that knows none; draw without a "
            "style, or let it reuse deep_features."
        )
    if any(getattr(module, "_compiled_call_impl", None) is not None for module in network.modules()):
        raise UserError(f"The styles of this pair are adapters, which a compiled {role} half does not take.")
