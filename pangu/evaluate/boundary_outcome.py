"""What `pangu boundary` answers with."""

from pydantic import Field

from pangu.config import Frozen
from pangu.data.card import Split
from pangu.evaluate.boundary import Recommendation


class CurvePoint(Frozen):
    """What the probe does on one part of the timesteps.

    loss: squared error of what the network predicts (PanGu-Draw, Eq. 2).
    unknown: squared error of the clean latents it implies, as a share of their power around the corpus mean.
    unknown_layout: the same over the frequencies that small images hold.
    visible_detail: share of the power that upscaling lost which z_t still shows; no matter of the probe.
    """

    timestep: float
    log_snr: float
    loss: float
    unknown: float
    unknown_layout: float
    visible_detail: float


class BoundaryOutcome(Frozen):
    """The recommendation, what it was measured on, and its picture."""

    dataset: str
    version: int
    split: Split
    images: int
    upscale_factor: float = Field(description="How much smaller the small images are; the median of the upscaled rows")
    upscaler: str
    visible_share: float
    recommendation: Recommendation
    hand_over: float | None = Field(
        description="Of two halves: open layout just below their boundary over just above it. Well above 1 means that "
        "the texture generator knows less of the layout than it is given to decide: the boundary is too high for it"
    )
    curve: tuple[CurvePoint, ...]
    picture: str
