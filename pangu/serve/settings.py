"""How the served pair uses its machine: limits, replicas, threads. The JSON of it is what the Serve application takes."""

from pydantic import Field

from pangu.config import Frozen

APPLICATION = "pangu"
IMPORT_PATH = "pangu.serve.app:build"
POOLS = ("structure", "texture", "decoder")
"""Names of the deployments whose `user_config` is the release that they serve."""


class PoolSettings(Frozen):
    """One pool of replicas, which each hold one part of the pair."""

    replicas: int = Field(1, ge=1)
    num_cpus: float = Field(0.1, ge=0, description="What a replica reserves in Ray; admission, not a limit on threads")
    num_gpus: float = Field(0.0, ge=0)
    threads: int | None = Field(
        None,
        ge=1,
        description="Torch threads of one replica; None takes half of the cores, because two pools draw at the same time",
    )


class ServeSettings(Frozen):
    """The whole application."""

    structure: PoolSettings = PoolSettings()
    texture: PoolSettings = PoolSettings()
    decoder: PoolSettings = PoolSettings()
    gateway_cpus: float = Field(0.1, ge=0)
    max_in_flight: int = Field(16, ge=1, description="Requests that are accepted at once; the next one gets a 429")
    retry_after_s: int = Field(2, ge=1, description="What a refused client is told to wait")
    timeout_s: float = Field(300.0, gt=0, description="Deadline of one request, from acceptance to the last byte")
    drain_s: float = Field(60.0, gt=0, description="How long a stopping replica may finish what it accepted")
