"""Coop-Diffusion: pretrained models of any latent space and resolution in one denoising process (PanGu-Draw, Algorithm 1)."""

from pangu.pipelines.coop.bridge import RoundTrip
from pangu.pipelines.coop.families import register
from pangu.pipelines.coop.family import Ask, Condition, Family
from pangu.pipelines.coop.handoff import Handoff
from pangu.pipelines.coop.partner import Partner
from pangu.pipelines.coop.pipeline import CoopPipeline
from pangu.pipelines.coop.plan import Plan

__all__ = ["Ask", "Condition", "CoopPipeline", "Family", "Handoff", "Partner", "Plan", "RoundTrip", "register"]
