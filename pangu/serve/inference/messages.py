"""What the parts of the served pair hand to each other. Each message names the release that it belongs to."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pangu.config import MIDDLE_ROLES, Frozen, Role
from pangu.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from pangu.sampling.inpainting import Kept
    from pangu.sampling.trajectory import Trajectory


class Capabilities(Frozen):
    """What a release can be asked for, and what it prefers."""

    sizes: tuple[str, ...] = Field((), description="WIDTHxHEIGHT, the preferred one first")
    styles: tuple[str, ...] = ()
    num_inference_steps: int = 30
    guidance_scale: float = 3.0
    texture_guidance: float | None = Field(
        None, exclude_if=lambda value: value is None, description="Of the texture half, where it is another"
    )
    prompts: dict[str, tuple[str, ...]] = Field({}, description="Language -> captions that it was trained on")
    reads_windows: bool = Field(False, description="Whether long text can be read in windows")


class Release(Frozen):
    """A fetched release: where it lies and which bytes it must have."""

    pair_version: int
    structure_version: int
    texture_version: int
    middle_versions: dict[Role, int] = Field(
        default={},
        exclude_if=lambda value: not value,
        description="Of the experts between the two, where there are any",
    )
    sha256: str
    created: int
    folder: Path
    parts: dict[str, str] = Field(
        default={}, description="Hash of what each pool loads; equal in releases that share it"
    )
    offers: Capabilities = Capabilities()

    @property
    def between(self) -> tuple[Role, ...]:
        """The experts between structure and texture, the noisiest first."""
        return tuple(role for role in MIDDLE_ROLES if role in self.parts or role in self.middle_versions)

    def key(self, part: str) -> str:
        """What tells the files of one part apart from those of other releases."""
        return self.parts.get(part, self.sha256)


class ReleaseRouting(Frozen):
    """Which releases answer: the `user_config` of every part of the application."""

    champion: Release
    canary: Release | None = Field(None, description="Answers a share of the requests, and those that ask for it")
    canary_share: float = Field(0.0, ge=0, le=1)
    held: tuple[Release, ...] = Field((), description="Loaded beside these: about to answer, or just replaced")

    @property
    def between(self) -> tuple[Role, ...]:
        """The experts between structure and texture of all these releases."""
        return tuple(role for role in MIDDLE_ROLES if any(role in each.between for each in self.releases))

    @property
    def releases(self) -> tuple[Release, ...]:
        """Every release that a pool has to hold."""
        return (self.champion, *([self.canary] if self.canary else []), *self.held)

    def choose(self, channel: str | None, seed: str) -> Release:
        """The release that answers; equal seeds get equal releases while the routing stands.

        Raises:
            RequestError: the canary is asked for, and there is none.
        """
        if channel == "champion":
            return self.champion
        if channel == "canary":
            if self.canary is None:
                raise RequestError(
                    "There is no canary release; leave the header X-PanGu-Release out.", "X-PanGu-Release"
                )
            return self.canary
        drawn = int.from_bytes(hashlib.sha256(seed.encode("utf-8", "replace")).digest()[:6]) / 2**48
        return self.canary if self.canary is not None and drawn < self.canary_share else self.champion


@dataclass(frozen=True)
class Unread:
    """The end of a text that a text encoder does not read, because it takes `max_tokens` tokens and the text has `tokens`.

    param: the field of the request that the text comes from, as "texture.prompt"; "style.NAME" is the prompt behind the prefix
    of a style. encoder: subfolder of the pair.
    """

    param: str
    encoder: str
    text: str
    tokens: int
    max_tokens: int


@dataclass(frozen=True)
class Unknown:
    """A text of the request of which no text encoder knows the greater part. words: those that none knows, each once."""

    param: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class TextureJob:
    """What differs below the boundary. None means: as above it."""

    prompt: str | None = None
    negative_prompt: str | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    styles: Mapping[str, float] | None = None


@dataclass(frozen=True)
class LoraJob:
    """A declared adapter and its weight on the experts that it has matrices for; those of single experts count before it."""

    name: str
    weight: float = 1.0
    structure: float | None = None
    texture: float | None = None
    between: Mapping[Role, float] = field(default_factory=dict)

    @property
    def own(self) -> dict[Role, float]:
        """Weights of single experts."""
        ends: dict[Role, float | None] = {"structure": self.structure, "texture": self.texture}
        return {role: weight for role, weight in (ends | dict(self.between)).items() if weight is not None}

    def weight_on(self, role: Role) -> float:
        return self.own.get(role, self.weight)


@dataclass(frozen=True)
class CoopJob:
    """Which declared partners help, and how. images: the file of a control image for each partner, or None.

    shared_image: one image was given for all, so partners that take none do without it. varied: the file that partners vary,
    those that are declared to vary one.
    """

    partners: tuple[str, ...]
    strengths: tuple[float, ...]
    images: tuple[bytes | None, ...]
    shared_image: bool = False
    every: int = 1
    start: float = 0.0
    stop: float = 1.0
    upsample: str | None = None
    varied: bytes | None = None


@dataclass(frozen=True)
class Job:
    """A validated request. None means: whatever the release prefers, and is filled in when the structure half begins."""

    prompt: str
    seed: int
    negative_prompt: str | None = None
    images: int = 1
    width_height: tuple[int, int] | None = None
    steps: int | None = None
    step_factor: float = 1.0
    guidance_scale: float | None = None
    scheduler: str | None = None
    styles: Mapping[str, float] = field(default_factory=dict)
    lora_scales: Mapping[Role, float] = field(default_factory=dict)
    loras: tuple[LoraJob, ...] = ()
    texture: TextureJob = TextureJob()
    coop: CoopJob | None = None
    role_steps: Mapping[Role, int] = field(default_factory=dict)
    """Steps of each half, where they are chosen; `steps` and `texture.steps` are then those of the wholes that have them."""
    wholes: Mapping[Role, int] = field(default_factory=dict)
    """Of more than two experts with steps of their own: those of the whole that each one below the first walks along."""
    guidance_between: Mapping[Role, float] = field(default_factory=dict)
    """Guidance of experts between structure and texture, where it is not that of texture."""
    split_by_log_snr: bool = False
    """Whether the steps are shared by the log-SNR that each half crosses; resolved into `role_steps`."""
    guidance_intervals: Mapping[Role, tuple[float, float]] = field(default_factory=dict)
    """Lowest and highest timestep at which a half is guided, where it is not at all of them."""
    source: bytes | None = None
    """The image file that an edit refines."""
    mask: bytes | None = None
    """A png as large as `source`; only where it is transparent the image is edited."""
    long_prompts: Literal["cut", "windows"] | None = None
    """Whether text beyond what the encoders read at once is read in windows; None means that it is cut."""
    enhance: bool = False
    """Whether the prompt is to be worded by the declared chat model; done, and False, before a pool sees the request."""
    original_prompt: str | None = None
    """What the client wrote, where `prompt` is what the chat model made of it."""
    strength: float | None = None
    """Part of all timesteps below which an edit begins, in (0, 1]; None means the boundary."""
    nearest_size: bool = False
    """Whether a size that the release does not draw stands for the nearest one that it does."""
    output_format: str = "png"
    output_compression: int = 90
    partial_images: int = 0
    unread: tuple[Unread, ...] = ()
    """What the text encoders of the release cut off; filled in when the structure half begins."""
    unknown: tuple[Unknown, ...] = ()
    """Texts that they hardly know; filled in at the same time."""

    def seed_of(self, image: int) -> int:
        """The seed that alone draws image number `image` again, in [0, 2**32)."""
        return (self.seed + image) % 2**32


@dataclass(frozen=True)
class Received:
    """The image of an edit: its clean latents (1, C, H, W), and (1, 1, H, W) with 1 where a mask lets it be edited, or None."""

    width_height: tuple[int, int]
    latents_1chw: "Tensor"
    drawn_11hw: "Tensor | None" = None


@dataclass(frozen=True)
class PoolResult:
    """A trajectory at the boundary, or at its end, with everything that was decided about it on the way.

    job: nothing in it is left to the preferences of the release. role_steps: half -> steps that it took.
    batch_sizes: part of the pool -> mean number of requests that shared a call of its network.
    previewed: partial images that were shown above the boundary.
    """

    release: Release
    job: Job
    width_height: tuple[int, int]
    trajectory: "Trajectory"
    role_steps: Mapping[Role, int] = field(default_factory=dict)
    kept: "Kept | None" = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    batch_sizes: Mapping[str, float] = field(default_factory=dict)
    cached: bool = False
    previewed: int = 0


@dataclass(frozen=True)
class Preview:
    """A clean estimate on the way: what the images would be if the sampler stopped here. latents_bchw: (B, C, H, W)."""

    release: Release
    job: Job
    index: int
    latents_bchw: "Tensor"


@dataclass(frozen=True)
class PartialImage:
    """A decoded preview: one image file per image of the request, None for one that is withheld; no file if it is not finite."""

    index: int
    files: list[bytes | None]
    unread: tuple[Unread, ...] = ()
    unknown: tuple[Unknown, ...] = ()


@dataclass(frozen=True)
class GeneratedImages:
    """Encoded images, None for those that are withheld, and the facts that the answer reports.

    request: the body that draws them again (`facts.request_of`). role_steps: half -> steps that it took.
    revised_prompt: what a chat model made of the prompt. notes: what was asked for in vain, a sentence each.
    """

    release: Release
    files: list[bytes | None]
    width_height: tuple[int, int]
    scheduler: str
    request: Mapping[str, Any]
    role_steps: Mapping[Role, int]
    seconds: Mapping[str, float]
    batch_sizes: Mapping[str, float] = field(default_factory=dict)
    cached: bool = False
    partners: tuple[str, ...] = ()
    unread: tuple[Unread, ...] = ()
    unknown: tuple[Unknown, ...] = ()
    revised_prompt: str | None = None
    notes: tuple[str, ...] = ()


class RequestError(UserError):
    """A request that this release can not draw; `param` is the field of the request to change."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param

    def __reduce__(self) -> tuple[Any, ...]:
        return RequestError, (str(self), self.param)
