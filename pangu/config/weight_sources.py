"""Where weights come from."""

from typing import Literal

from pydantic import Field

from pangu.config.tree import Frozen


class AutoencoderSource(Frozen):
    """Where the autoencoder comes from."""

    source: str = Field("embedded", description="'embedded', a local folder, or a hub id")
    subfolder: str | None = Field(None, description="Subfolder of a pipeline folder or hub repository, e.g. 'vae'")


class AbsentText(Frozen):
    """What a denoiser reads where a text encoder was left out that it was trained with: tokens of zeros."""

    tokens: int = Field(ge=1, description="How many")
    channels: int = Field(ge=1, description="How wide they are")


class TextJoin(Frozen):
    """How what one text encoder says stands beside what the others say, as transformers of others were trained."""

    max_tokens: int = Field(ge=2, description="Tokens that this encoder reads, padded or cut")
    tokens: Literal["channels", "sequence", "unread"] = Field(
        "channels",
        description="Its tokens beside those of the encoder before, behind them, padded to one width, or not at all",
    )
    pooled: bool = Field(False, description="Whether its pooled text is read; those that are read stand side by side")
    padding: Literal["read", "zeros", "masked"] = Field(
        "read",
        description="Tokens of padding are read as they are, read as zeros, or not read: they are zeros and masked",
    )
    lower: bool = Field(False, description="Whether it reads small letters alone")
    template: str | None = Field(
        None,
        pattern=r"\{\}",
        exclude_if=lambda value: value is None,
        description="What a language model was asked about pictures: the caption stands for {}",
    )
    dropped: int = Field(
        0,
        ge=0,
        exclude_if=lambda value: not value,
        description="So many tokens of the template's beginning are left out of what the denoiser reads",
    )
    absent: AbsentText | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Tokens of zeros behind its own, for an encoder that was left out, as Stable Diffusion 3's T5 may be",
    )


class TextEncoderSource(Frozen):
    """One frozen text encoder and its tokenizer."""

    source: str = Field("embedded", description="'embedded', a local folder, or a hub id")
    subfolder: str | None = Field(None, description="Subfolder of the encoder, e.g. 'text_encoder'")
    tokenizer_subfolder: str | None = Field(None, description="Subfolder of the tokenizer, e.g. 'tokenizer'")
    hidden_layer: int = Field(
        -1,
        le=0,
        description="Which hidden state conditions the denoiser; SDXL uses -2, Stable Diffusion 0: the final output",
    )
    sees_padding: bool = Field(False, description="Attend to padding tokens too, as Stable Diffusion and SDXL do")
    join: TextJoin | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="None: tokens of all encoders beside each other, and the pooled text of the last one",
    )


class InitialWeights(Frozen):
    """What the generators start from, instead of random weights."""

    source: str = Field(
        description="'embedded', a generator folder (both roles start from it), a pair folder (each role from its half), a "
        "diffusers pipeline or UNet folder, a hub id, or a registered pair such as models:/pangu-pair@champion",
    )
    subfolder: str | None = Field(None, description="Subfolder of the UNet, e.g. 'unet'")
    weights: str | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="A safetensors file in the layout of the original code, in place of the weights of the folder",
    )
    adapter: str | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="A LoRA file or folder that becomes part of the weights before the first step, whole or not at all",
    )
    new_latents: bool = Field(
        False,
        exclude_if=lambda value: not value,
        description="Go over to another autoencoder: all but first and last layer is kept (arXiv 2403.04692, Section 3.3)",
    )
