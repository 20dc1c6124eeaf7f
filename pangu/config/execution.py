"""How the numbers of a training are computed."""

from typing import Literal

from pydantic import Field

from pangu.config.tree import Frozen


class Execution(Frozen):
    """How the same numbers are computed: what fits a device, and how fast."""

    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: autocast around the forward pass")
    accumulate: int = Field(
        1, ge=1, description="Parts of a worker's share of the batch, one forward and backward each"
    )
    gradient_checkpointing: bool = Field(False, description="Recompute activations in the backward pass: less memory")
    channels_last: bool = Field(False, description="Memory layout that tensor cores like")
    compile: bool = Field(False, description="torch.compile each block of the denoiser; one graph per block and preset")
    background_checkpoints: bool = Field(
        False,
        exclude_if=lambda asked: not asked,
        description="Write checkpoints while training goes on, from copies that take their size in host memory",
    )
    # Left out where they are the usual ones, so that recipes are written as they were.
    ema_device: Literal["device", "host"] = Field(
        "device",
        exclude_if=lambda where: where == "device",
        description="Where the running means are: with the weights, or in the host's memory, rank 0's alone",
    )
    ema_every: int = Field(
        1,
        ge=1,
        exclude_if=lambda steps: steps == 1,
        description="Steps between two updates of the running means, each by the decays of all steps since the last",
    )
    moments: Literal["fp32", "bf16", "int8"] = Field(
        "fp32",
        exclude_if=lambda form: form == "fp32",
        description="The optimizer's two moments: bf16 with stochastic rounding, or 8 bits in blocks of 256: less memory",
    )
    prefetch: int = Field(2, ge=0, description="Batches drawn ahead by a background thread; 0 draws them in turn")
    latents: Literal["precomputed", "on_the_fly"] = Field(
        "precomputed", description="Encode once before training, or in the loop from the images"
    )
