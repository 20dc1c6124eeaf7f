"""The part of a form in which a run does otherwise than its recipe says; `flows.overrides` applies it."""

from typing import ClassVar, Self

from pydantic import Field

from flows.form import Form, Source


class CommonChanges(Form):
    """What a run may do otherwise than any recipe; an empty field keeps the recipe's value."""

    batch_size: int | None = Field(
        None, title="Batch size, images", ge=1, le=1_000_000, description="Images per optimizer step, of every job"
    )
    lr_peak: float | None = Field(
        None, title="Learning rate, peak", gt=0, le=1, description="Learning rate after the warm-up"
    )
    lr_final: float | None = Field(
        None, title="Learning rate, at the end", ge=0, le=1, description="Learning rate of the last step"
    )
    warmup_steps: int | None = Field(
        None, title="Warm-up, steps", ge=0, le=100_000_000, description="Steps in which the learning rate rises"
    )
    ema_decay: float | None = Field(
        None,
        title="Running mean, decay",
        ge=0,
        lt=1,
        description="Decay of the running mean of the weights that is exported",
    )
    zh_share: float | None = Field(
        None,
        title="Chinese captions, share from 0 to 1",
        ge=0,
        le=1,
        description="Share of Chinese captions; 0 is English alone",
    )
    template_share: float | None = Field(
        None,
        title="Captions in templates, share from 0 to 1",
        ge=0,
        le=1,
        description="Share of captions put into the recipe's templates, if any",
    )
    keyword_share: float | None = Field(
        None,
        title="Keywords, share from 0 to 1",
        ge=0,
        le=1,
        description="Share of captions that give way to a keyword of the row",
    )
    seed: int | None = Field(None, title="Seed", ge=0, le=2**31 - 1, description="Seed of rows, noise and dropouts")
    workers: int | None = Field(
        None,
        title="Training workers, number",
        ge=1,
        le=100_000,
        description="Data-parallel workers of each training job",
    )
    num_inference_steps: int | None = Field(
        None,
        title="Sampling steps, number",
        ge=1,
        le=1000,
        description="Sampling steps of sample grids, evaluation and API",
    )
    guidance_scale: float | None = Field(
        None, title="Guidance scale", ge=0, le=50, description="Guidance scale of sample grids, evaluation and API"
    )
    sample_every: int | None = Field(
        None,
        title="Steps between sample grids",
        ge=0,
        le=100_000_000,
        description="Steps between sample grids; 0: none",
    )
    start_from: Source | None = Field(
        None,
        title="Weights to start from",
        description="Weights to tune: `embedded`, a release (`models:/pangu-pair@champion`), a folder or a hub id; "
        "`nothing` for random ones. For edge_control: the generator that is controlled",
    )

    dataset_weight: float | None = Field(
        None,
        title="Weight of the card's dataset",
        gt=0,
        le=10_000,
        description="How often each of its rows appears in an epoch, where several datasets are trained on",
    )


class RecipeChanges(CommonChanges):
    """What this run does otherwise than the recipe of its pair; an empty field keeps the recipe's value."""

    first: ClassVar[tuple[str, ...]] = ("structure_steps", "texture_steps", "boundary")

    structure_steps: int | None = Field(
        None,
        title="Steps of the structure generator",
        ge=1,
        le=100_000_000,
        description="Optimizer steps of the structure generator",
    )
    texture_steps: int | None = Field(
        None,
        title="Steps of the texture generator",
        ge=1,
        le=100_000_000,
        description="Optimizer steps of the texture generator",
    )
    boundary: int | None = Field(
        None,
        title="Boundary, timestep",
        ge=1,
        le=9999,
        description="T_struct: structure owns the timesteps from here up",
    )

    def with_steps(self, steps: int | None) -> Self:
        """These changes, and so many steps of each half that they say nothing about."""
        given = {"structure_steps": self.structure_steps, "texture_steps": self.texture_steps}
        return self.model_copy(update={name: steps for name, own in given.items() if own is None})


class PartnerChanges(CommonChanges):
    """What this run does otherwise than the recipe of its partner; an empty field keeps the recipe's value."""

    first: ClassVar[tuple[str, ...]] = ("steps", "resolution", "autoencoder")

    steps: int | None = Field(None, title="Steps", ge=1, le=100_000_000, description="Optimizer steps")
    resolution: int | None = Field(
        None, title="Resolution, pixels per side", ge=8, le=8192, description="Pixels per side of what it draws"
    )
    autoencoder: Source | None = Field(
        None, title="Autoencoder", description="Its latent space: embedded, the folder of an autoencoder, or a hub id"
    )
    autoencoder_subfolder: Source | None = Field(
        None, title="Subfolder of the autoencoder", description="Where in that folder or repository it lies, e.g. vae"
    )
    start_subfolder: Source | None = Field(
        None,
        title="Subfolder of the weights",
        description="Where in it the UNet lies, e.g. unet, or structure in a pair",
    )
    new_latents: bool = Field(
        False,
        title="Over to another autoencoder",
        description="Go over to another autoencoder than start_from was trained with; first and last layer begin anew",
    )

    def with_steps(self, steps: int | None) -> Self:
        """These changes, and so many steps if they say nothing about them."""
        return self if self.steps is not None else self.model_copy(update={"steps": steps})
