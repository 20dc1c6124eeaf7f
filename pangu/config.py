"""The configuration tree: one frozen `Recipe` says everything about a run.

YAML files, Prefect forms, MLflow parameters and Serve arguments are views of it. This module knows nothing of torch,
Ray, MLflow or Prefect.
"""

import hashlib
import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Role = Literal["structure", "texture"]
ROLES: tuple[Role, Role] = ("structure", "texture")


class Frozen(BaseModel):
    """An immutable node of the tree that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON: equal trees, equal digests."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class NoiseSchedule(Frozen):
    """The forward process of PanGu-Draw, Eq. 1, and what the network predicts."""

    num_train_timesteps: int = Field(1000, ge=2, description="T: number of discrete noise levels")
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    beta_start: float = Field(0.00085, gt=0, lt=1)
    beta_end: float = Field(0.012, gt=0, lt=1)
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    rescale_betas_zero_snr: bool = Field(False, description="Make the last step pure noise (arXiv 2305.08891)")


class AutoencoderSource(Frozen):
    """Where the autoencoder comes from."""

    source: str = Field("embedded", description="'embedded', a local folder, or a hub id")
    subfolder: str | None = Field(None, description="Subfolder of a pipeline folder or hub repository, e.g. 'vae'")


class TextEncoderSource(Frozen):
    """One frozen text encoder and its tokenizer."""

    source: str = Field("embedded", description="'embedded', a local folder, or a hub id")
    subfolder: str | None = Field(None, description="Subfolder of the encoder, e.g. 'text_encoder'")
    tokenizer_subfolder: str | None = Field(None, description="Subfolder of the tokenizer, e.g. 'tokenizer'")
    hidden_layer: int = Field(-1, le=-1, description="Which hidden state conditions the denoiser; SDXL uses -2")


class DenoiserConfig(Frozen):
    """The shape of one generator's UNet; channels and context sizes follow from autoencoder and text encoders."""

    block_out_channels: tuple[int, ...] = (96, 160, 224)
    layers_per_block: int = Field(1, ge=1)
    attention: tuple[bool, ...] = Field((False, True, True), description="Per level: cross-attention blocks or not")
    transformer_layers_per_block: tuple[int, ...] = (1, 1, 1)
    attention_head_dim: int = Field(32, ge=1, description="Channels of one attention head")
    norm_num_groups: int = Field(32, ge=1)
    preset_embed_dim: int = Field(32, ge=2, description="Size of the sinusoidal embedding of the preset index")

    @model_validator(mode="after")
    def _levels_agree(self) -> "DenoiserConfig":
        levels = len(self.block_out_channels)
        if not levels == len(self.attention) == len(self.transformer_layers_per_block):
            raise ValueError("block_out_channels, attention and transformer_layers_per_block need one entry per level")
        return self


Resolution = Annotated[int, Field(ge=8, description="Pixels per side of the square preset")]


class RoleTraining(Frozen):
    """What differs between the two training jobs (PanGu-Draw, Section 3.2)."""

    resolution: Resolution
    crop_from: Resolution | None = Field(
        None,
        description="Cut windows of `resolution` out of images of this size; None: the whole image at `resolution`",
    )
    steps: int = Field(ge=1, description="Optimizer steps")
    batch_size: int = Field(ge=1, description="Images per optimizer step, over all workers")

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
    """What both training jobs share."""

    lr_peak: float = Field(1e-3, gt=0)
    lr_final: float = Field(1e-5, ge=0)
    warmup_steps: int = Field(50, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.99)
    grad_clip: float = Field(1.0, gt=0)
    ema_decay: float = Field(0.995, ge=0, lt=1)
    caption_dropout: float = Field(0.1, ge=0, le=1, description="Share of captions replaced by the empty one")
    zh_share: float = Field(0.5, ge=0, le=1, description="Share of Chinese captions")
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpoint_every: int = Field(200, ge=1, description="Steps between checkpoints")
    log_every: int = Field(20, ge=1, description="Steps between log lines")


class Sampling(Frozen):
    """Defaults of the pipeline and of the served API."""

    num_inference_steps: int = Field(30, ge=1, le=1000)
    guidance_scale: float = Field(3.0, ge=0, le=50)


class Recipe(Frozen):
    """Everything about a run, from encoding to release."""

    name: str
    seed: int = Field(0, ge=0)
    schedule: NoiseSchedule = NoiseSchedule()
    boundary: int = Field(500, description="T_struct: the structure generator owns t >= boundary, texture t < boundary")
    autoencoder: AutoencoderSource = AutoencoderSource()
    text_encoders: tuple[TextEncoderSource, ...] = (TextEncoderSource(),)
    max_tokens: int = Field(32, ge=2, description="Caption length in tokens, padded or cut")
    denoiser: DenoiserConfig = DenoiserConfig()
    structure: RoleTraining
    texture: RoleTraining
    optimization: Optimization = Optimization()
    sampling: Sampling = Sampling()
    workers: int = Field(1, ge=1, description="Data-parallel workers of each training job")

    @model_validator(mode="after")
    def _intervals_make_sense(self) -> "Recipe":
        if not 0 < self.boundary < self.schedule.num_train_timesteps:
            raise ValueError(f"boundary must lie strictly between 0 and T={self.schedule.num_train_timesteps}")
        if self.texture.resolution > self.structure.resolution:
            raise ValueError("texture must not train at a higher resolution than structure (PanGu-Draw, Section 3.2)")
        if not self.text_encoders:
            raise ValueError("text_encoders needs at least one entry")
        return self

    def training(self, role: Role) -> RoleTraining:
        return self.structure if role == "structure" else self.texture
