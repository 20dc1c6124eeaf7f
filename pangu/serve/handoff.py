"""What the parts of the served pair hand to each other. Each message names the release that it belongs to."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pangu.config import Frozen
from pangu.errors import UserError

if TYPE_CHECKING:
    from pangu.diffusion.trajectory import Trajectory


class Release(Frozen):
    """A fetched release: where it lies and which bytes it must have. This is the `user_config` of every pool."""

    pair_version: int
    structure_version: int
    texture_version: int
    sha256: str
    created: int
    folder: Path


@dataclass(frozen=True)
class Job:
    """A validated request. None means: whatever the release prefers."""

    prompt: str
    negative_prompt: str | None
    images: int
    width_height: tuple[int, int] | None
    steps: int | None
    guidance_scale: float | None
    seed: int
    output_format: str
    output_compression: int

    def seed_of(self, image: int) -> int:
        """The seed that alone draws image number `image` again, in [0, 2**32)."""
        return (self.seed + image) % 2**32


@dataclass(frozen=True)
class Handoff:
    """A trajectory at the boundary, or at its end, with everything that was decided about it on the way."""

    release: Release
    job: Job
    width_height: tuple[int, int]
    trajectory: "Trajectory"
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Pictures:
    """Encoded images and the facts that the answer reports."""

    release: Release
    files: list[bytes]
    width_height: tuple[int, int]
    scheduler: str
    steps: int
    guidance_scale: float
    seconds: dict[str, float]


class RequestError(UserError):
    """A request that this release can not draw; `param` is the field of the request to change."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param

    def __reduce__(self) -> tuple[Any, ...]:
        return RequestError, (str(self), self.param)
