"""Coop-Diffusion: pretrained models of any latent space and resolution in one denoising process (PanGu-Draw, Algorithm 1)."""

from pangu.pipelines.coop.adapters import register
from pangu.pipelines.coop.bridge import BridgePsnr
from pangu.pipelines.coop.call_counts import CallCounts
from pangu.pipelines.coop.handoff import Handoff
from pangu.pipelines.coop.model_adapter import Condition, GenerationRequest, ModelAdapter
from pangu.pipelines.coop.partner import Partner
from pangu.pipelines.coop.pipeline import CoopPipeline

__all__ = [
    "BridgePsnr",
    "CallCounts",
    "Condition",
    "CoopPipeline",
    "GenerationRequest",
    "Handoff",
    "ModelAdapter",
    "Partner",
    "register",
]
