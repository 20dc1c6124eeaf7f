"""What a run shows and draws."""

from pydantic import Field

from pangu.config.tree import Frozen


class Sampling(Frozen):
    """Defaults of the pipeline and of the served API."""

    num_inference_steps: int = Field(30, ge=1, le=1000)
    guidance_scale: float = Field(3.0, ge=0, le=50)
    texture_guidance: float | None = Field(
        None,
        ge=0,
        le=50,
        exclude_if=lambda value: value is None,
        description="Of the texture half, where it is another and a request says nothing of guidance",
    )


class Watching(Frozen):
    """What is shown while training runs, beside the log lines."""

    timestep_buckets: int = Field(4, ge=1, le=50, description="Equal parts of the interval whose loss is logged apart")
    sample_every: int = Field(0, ge=0, description="Steps between sample grids; 0: none")
    samples: int = Field(8, ge=1, le=64, description="Images in a sample grid")
    # Left out where it is the usual one, so that recipes are written as they were.
    held_out_every: int = Field(
        0,
        ge=0,
        exclude_if=lambda value: value == 0,
        description="Steps between measurements of the loss on held-out rows, by timestep; 0: none",
    )
    held_out_rows: int = Field(
        32, ge=1, le=4096, exclude_if=lambda value: value == 32, description="Held-out rows that are measured, at most"
    )
    upload_to: str | None = Field(None, description="An fsspec URI; every checkpoint is copied there in the background")
