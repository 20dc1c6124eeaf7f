"""Sampling with pairs, and with models that cooperate: diffusers pipelines."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pangu.pipelines.coop import CoopPipeline, Handoff, Partner

__all__ = ["CoopPipeline", "Handoff", "Partner"]


def __getattr__(name: str) -> Any:
    """Coop-Diffusion loads every family of diffusers, so it waits until somebody asks for it."""
    if name in __all__:
        from pangu.pipelines import coop

        return getattr(coop, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
