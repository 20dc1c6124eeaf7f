"""Sampling with pairs, and with models that cooperate: diffusers pipelines."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pangu.pipelines.baselines import Cascade, SingleStage
    from pangu.pipelines.coop import CoopPipeline, Handoff, Partner
    from pangu.pipelines.experts_pipeline import ExpertsPipeline
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline
    from pangu.pipelines.registration import register

__all__ = [
    "Cascade", "CoopPipeline", "ExpertsPipeline", "Handoff", "PanGuDrawPipeline", "Partner", "SingleStage", "register",
]  # fmt: skip

PLACES = {
    "Cascade": "baselines",
    "CoopPipeline": "coop",
    "ExpertsPipeline": "experts_pipeline",
    "Handoff": "coop",
    "PanGuDrawPipeline": "pangu_draw",
    "Partner": "coop",
    "SingleStage": "baselines",
    "register": "registration",
}


def __getattr__(name: str) -> Any:
    """Pipelines load much of diffusers, so they wait until somebody asks for one."""
    if name in PLACES:
        return getattr(import_module(f"{__name__}.{PLACES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
