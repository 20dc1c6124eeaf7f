"""Where weights come from."""

from pydantic import Field

from pangu.config.tree import Frozen


class AutoencoderSource(Frozen):
    """Where the autoencoder comes from."""

    source: str = Field("embedded", description="'embedded', a local folder, or a hub id")
    subfolder: str | None = Field(None, description="Subfolder of a pipeline folder or hub repository, e.g. 'vae'")


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


class InitialWeights(Frozen):
    """What the generators start from, instead of random weights."""

    source: str = Field(
        description="'embedded', a generator folder (both roles start from it), a pair folder (each role from its half), a "
        "diffusers pipeline or UNet folder, a hub id, or a registered pair such as models:/pangu-pair@champion",
    )
    subfolder: str | None = Field(None, description="Subfolder of the UNet, e.g. 'unet'")
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
