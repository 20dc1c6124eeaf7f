"""Makes the pipelines here known to diffusers, which looks up the class of a folder among its own names only.

Without it, `PanGuDrawPipeline.from_pretrained(folder)` and the other classes load their folders just as well.
"""

from typing import Any


def register() -> None:
    """Let `DiffusionPipeline.from_pretrained` and `AutoPipelineForText2Image` find the classes of this package; idempotent."""
    import diffusers
    from diffusers.pipelines import auto_pipeline

    from pangu.pipelines.baselines import Cascade, SingleStage
    from pangu.pipelines.experts_pipeline import ExpertsPipeline
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline

    known: dict[str, Any] = {
        "pangu-draw": PanGuDrawPipeline, "pangu-experts": ExpertsPipeline, "pangu-single": SingleStage, "pangu-cascade": Cascade,
    }  # fmt: skip
    for name, cls in known.items():
        setattr(diffusers, cls.__name__, cls)
        auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING[name] = cls
