"""What is put on a denoiser: low-rank adapters, a ControlNet and what it is shown."""

from pydantic import Field, model_validator

from pangu.config.tree import Frozen


class EdgeControl(Frozen):
    """What a ControlNet is shown: the edges of the image, by OpenCV's Canny detector."""

    low_threshold: int = Field(100, ge=0, description="Gradients below this are no edge")
    high_threshold: int = Field(200, ge=1, description="Gradients above this are one; between, what touches one is too")

    @model_validator(mode="after")
    def _ordered(self) -> "EdgeControl":
        if self.low_threshold > self.high_threshold:
            raise ValueError("low_threshold must not be above high_threshold")
        return self


class LoraConfig(Frozen):
    """Low-rank adapters (arXiv 2106.09685) in the place of full weights."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(16.0, gt=0, description="The adapter's output is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] = Field(
        ("to_q", "to_k", "to_v", "to_out.0"), min_length=1, description="Which linear layers are adapted"
    )
