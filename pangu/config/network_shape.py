"""The shapes of networks: denoisers, adapters, what a ControlNet is shown."""

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
