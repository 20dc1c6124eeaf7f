"""What a pipeline knows beside its components stays with its networks, so that `Class(**pipe.components)` is the same again.

diffusers' own pipelines can do without, as the defaults of their classes fit all; contracts and text layers have no default.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from pangu.errors import UserError

ATTRIBUTE = "_pangu_settings"


def remember(networks: Iterable[Any], kind: type, settings: Mapping[str, Any]) -> None:
    """Keep the arguments that a pipeline of that class was made with."""
    for network in networks:
        known = _known(network, kind)
        if dict(settings) not in known:
            setattr(network, ATTRIBUTE, {**getattr(network, ATTRIBUTE, {}), kind.__name__: [*known, dict(settings)]})


def recalled(networks: Iterable[Any], kind: type) -> dict[str, Any] | None:
    """The arguments of the pipeline of that class that all of these networks were in; None where there was none.

    Raises:
        UserError: they were in several such pipelines.
    """
    first, *others = [_known(network, kind) for network in networks if network is not None] or [[]]
    common = [settings for settings in first if all(settings in known for known in others)]
    if len(common) > 1:
        raise UserError(
            f"These networks were in {len(common)} {kind.__name__}s of different settings; use from_pipe, or give contracts=..."
        )
    return dict(common[0]) if common else None


def _known(network: Any, kind: type) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = getattr(network, ATTRIBUTE, {}).get(kind.__name__, [])
    return found
