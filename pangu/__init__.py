"""PanGu: time-decoupled training, Coop-Diffusion and serving of pairs of text-to-image generators.

Nothing happens on import: no directories, no servers, no environment changes. What a notebook needs is here by its name, and
imported when it is first asked for.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PLACES = {
    "Card": "data.card", "CoopPipeline": "pipelines.coop", "PanGuDrawPipeline": "pipelines.pangu_draw", "Recipe": "config",
    "evaluate": "evaluate", "train": "train",
}  # fmt: skip
"""`train` and `evaluate` are packages that can be called. Their types stand in `__init__.pyi`."""
__all__ = [*_PLACES]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from pangu.extras import check_name, extras_named

    check_name(name)
    with extras_named(f"pangu.{name}"):
        module = import_module(f"{__name__}.{_PLACES[name]}")
    return getattr(module, name, module)
