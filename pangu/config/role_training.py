"""What a training job learns from, and how."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pangu.config.denoiser_shapes import AnyDenoiser
from pangu.config.distillation import Distillation
from pangu.config.execution import Execution
from pangu.config.network_shape import EdgeControl
from pangu.config.tree import Frozen, Resolution, Role
from pangu.diffusion.timestep_density import TimestepDensity, TimestepSampling


class RoleTraining(Frozen):
    """What differs between the training jobs of one recipe (PanGu-Draw, Section 3.2)."""

    resolution: Resolution
    presets: Literal["square", "published"] = Field(
        "square", description="One square bucket, or the paper's presets around `resolution` as buckets"
    )
    starved_presets: Literal["refuse", "nearest"] = Field(
        "refuse",
        description="Presets with fewer rows than a batch: refuse, or give their images the nearest shape that has enough",
    )
    rows: Literal["all", "originals"] = Field("all", description="Whether upscaled images are trained on")
    min_original_side: int = Field(
        0, ge=0, description="Smallest side of the original image, px; smaller ones are left out"
    )
    lower_side: Resolution | None = Field(
        None, description="Cascades: side of the generated image that this stage is conditioned on, px"
    )
    crop_from: Resolution | None = Field(
        None,
        description="Cut windows of `resolution` out of images of this size; None: the whole image at `resolution`",
    )
    steps: int = Field(ge=1, description="Optimizer steps")
    batch_size: int = Field(ge=1, description="Images per optimizer step, over all workers and accumulated parts")
    init_from_role: Role | None = Field(None, description="Go on from what this earlier job of the recipe trained")
    # Left out where there is none, so that the digests of recipes and encoded datasets without control stay what they were.
    control: EdgeControl | None = Field(
        None, exclude_if=lambda value: value is None, description="What the role `control` is shown of each image"
    )
    denoiser: AnyDenoiser | None = Field(
        None, exclude_if=lambda value: value is None, description="The shape of this generator; None: the recipe's"
    )
    execution: Execution | None = Field(
        None, exclude_if=lambda value: value is None, description="How this job computes; None: as the recipe says"
    )
    distillation: Distillation | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Teach a student of few steps what `init_from` draws in many; None: train on the images",
    )

    @property
    def encoded_side(self) -> int:
        """Pixels per side of the images that are encoded for this job."""
        return self.crop_from or self.resolution

    @model_validator(mode="after")
    def _windows_fit(self) -> "RoleTraining":
        if self.crop_from is not None and self.crop_from < self.resolution:
            raise ValueError("crop_from must not be smaller than resolution")
        return self


class Optimization(Frozen):
    """What is learnt and how fast; all training jobs share it."""

    lr_peak: float = Field(1e-3, gt=0, allow_inf_nan=False)
    lr_final: float = Field(1e-5, ge=0, allow_inf_nan=False)
    lr_schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="How the rate goes from lr_peak to lr_final after the warm-up"
    )
    lr_decay_share: float = Field(
        1.0, gt=0, le=1, description="Last share of the steps in which the rate falls; before that it stays at lr_peak"
    )
    warmup_steps: int = Field(50, ge=0)
    weight_decay: float = Field(0.01, ge=0, allow_inf_nan=False)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.99)
    grad_clip: float = Field(1.0, gt=0)
    max_skipped_steps: int = Field(
        5,
        ge=1,
        exclude_if=lambda value: value == 5,
        description="Steps in a row without a finite loss and gradient norm that stop the run; each of them is skipped",
    )
    ema_decays: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field(
        (0.995,), min_length=1, description="Running means of the weights; the first one is the exported generator"
    )
    min_snr_gamma: float | None = Field(
        None,
        gt=0,
        description="Short for loss: min_snr with this gamma: clean-data error times min(SNR, gamma) (arXiv 2303.09556)",
    )
    # Left out where they are the usual ones, so that the digests of recipes stay what they were.
    loss: str = Field(
        "prediction",
        exclude_if=lambda value: value == "prediction",
        description="What is learnt to be small: the squared error of the prediction, or of the epsilon, v_prediction, "
        "flow_prediction or sample that it implies; min_snr; or the name of an entry point of the group pangu.losses",
    )
    loss_options: dict[str, bool | int | float | str] = Field(
        {}, exclude_if=lambda value: not value, description="Arguments of the loss, e.g. {gamma: 5.0} for min_snr"
    )
    timestep_sampling: TimestepSampling = Field(
        "uniform",
        exclude_if=lambda value: value == "uniform",
        description="Density of the timesteps within the interval, before any shift (arXiv 2403.03206, Section 3.1)",
    )
    logit_mean: float = Field(
        0.0,
        exclude_if=lambda value: value == 0.0,
        allow_inf_nan=False,
        description="Of logit_normal; above 0: more noise",
    )
    logit_std: float = Field(1.0, gt=0, le=10, exclude_if=lambda value: value == 1.0, description="Of logit_normal")
    mode_scale: float = Field(
        1.29, ge=-1, le=1.75, exclude_if=lambda value: value == 1.29, description="Of mode; below 0: more at both ends"
    )
    caption_dropout: float = Field(0.1, ge=0, le=1, description="Share of captions replaced by the empty one")
    zh_share: float = Field(0.5, ge=0, le=1, description="Share of Chinese captions")
    style_share: float = Field(
        0.5, ge=0, le=1, description="Share of styled rows whose caption carries the style's prefix"
    )
    # Left out where they are the usual ones, so that the digests of recipes stay what they were.
    template_share: float = Field(
        0.5,
        ge=0,
        le=1,
        exclude_if=lambda value: value == 0.5,
        description="Share of captions that are put into one of the recipe's `caption_templates`, if it has any",
    )
    keyword_share: float = Field(
        0.0,
        ge=0,
        le=1,
        exclude_if=lambda value: not value,
        description="Share of the captions of rows with keywords that give way to one of them; where no row has any, to what all "
        "captions of a few share, the name of their subject",
    )
    long_caption_share: float | None = Field(
        None,
        ge=0,
        le=1,
        exclude_if=lambda value: value is None,
        description="Share of long captions, over 24 English words or 40 Chinese characters, where a row has both; null: each "
        "caption is as likely",
    )
    checkpoint_every: int = Field(200, ge=1, description="Steps between checkpoints")
    log_every: int = Field(20, ge=1, description="Steps between log lines")

    @model_validator(mode="after")
    def _one_loss(self) -> "Optimization":
        if self.min_snr_gamma is not None and (self.loss not in ("prediction", "min_snr") or self.loss_options):
            raise ValueError(
                "min_snr_gamma is short for loss: min_snr, loss_options: {gamma: ...}; give one of the two"
            )
        return self

    def density(self, num_train_timesteps: int, shift: float) -> TimestepDensity:
        """Of the timesteps that are drawn, over all intervals."""
        return TimestepDensity(
            total=num_train_timesteps,
            sampling=self.timestep_sampling,
            logit_mean=self.logit_mean,
            logit_std=self.logit_std,
            mode_scale=self.mode_scale,
            shift=shift,
        )

    @property
    def named_loss(self) -> tuple[str, dict[str, Any]]:
        """The loss and its arguments."""
        return (
            ("min_snr", {"gamma": self.min_snr_gamma}) if self.min_snr_gamma else (self.loss, dict(self.loss_options))
        )
