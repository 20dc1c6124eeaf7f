"""What a run shows and draws."""

from pydantic import Field

from pangu.config.tree import Frozen


class Sampling(Frozen):
    """Defaults of the pipeline and of the served API."""

    num_inference_steps: int = Field(30, ge=1, le=1000)
    guidance_scale: float = Field(3.0, ge=0, le=50)


class Watching(Frozen):
    """What is shown while training runs, beside the log lines."""

    timestep_buckets: int = Field(4, ge=1, le=50, description="Equal parts of the interval whose loss is logged apart")
    sample_every: int = Field(0, ge=0, description="Steps between sample grids; 0: none")
    samples: int = Field(8, ge=1, le=64, description="Images in a sample grid")
    upload_to: str | None = Field(None, description="An fsspec URI; every checkpoint is copied there in the background")
