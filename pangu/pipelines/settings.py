"""What a pipeline knows beside its components stays with its networks, so that `Class(**pipe.components)` is the same again.

diffusers' own pipelines can do without, as the defaults of their classes fit all; contracts and text layers have no default.
"""

from collections.abc import Iterable, Mapping
from typing import Any

ATTRIBUTE = "_pangu_settings"


def remember(networks: Iterable[Any], kind: type, settings: Mapping[str, Any]) -> None:
    """Keep the arguments that a pipeline of that class was made with."""
    for network in networks:
        if network is not None:
            setattr(network, ATTRIBUTE, {**getattr(network, ATTRIBUTE, {}), kind.__name__: dict(settings)})


def recalled(networks: Iterable[Any], kind: type) -> dict[str, Any] | None:
    """The arguments of the last pipeline of that class that all of these networks were in; None where there is none."""
    known = [getattr(network, ATTRIBUTE, {}).get(kind.__name__) for network in networks if network is not None]
    return dict(known[0]) if known and known[0] is not None and all(each == known[0] for each in known) else None
