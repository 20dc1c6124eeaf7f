"""How the served pair uses its machine: limits, replicas, threads, partners, keys.

The JSON of `ServeSettings` is what the Serve application takes, and the `--settings` of `pangu deploy` and `pangu serve`.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from pangu.config import MIDDLE_ROLES, Between, Frozen, Reuse, Role
from pangu.errors import UserError

APPLICATION = "pangu"
IMPORT_PATH = "pangu.serve.app:build"
PARTS_VERSION = 5
"""Raise it whenever gateway and pools of the code before can not work with those of now: messages, calls, names of modules."""
HALVES = ("structure", "texture", "decoder")
DECODED_PIXELS = 4 * 2**20
SMALL_PAIR_BYTES = 400 * 2**20
"""Of weights, 100 M parameters in fp32: what torch and diffusers cost each further replica."""
CHOSEN_LAYOUT = "chosen_layout"
BETWEEN = "experts_between"
LOOPBACK = ("127.0.0.1", "localhost", "::1")

BodyPart = Literal[
    "FEMALE_GENITALIA_COVERED", "FACE_FEMALE", "BUTTOCKS_EXPOSED", "FEMALE_BREAST_EXPOSED", "FEMALE_GENITALIA_EXPOSED",
    "MALE_BREAST_EXPOSED", "ANUS_EXPOSED", "FEET_EXPOSED", "BELLY_COVERED", "FEET_COVERED", "ARMPITS_COVERED",
    "ARMPITS_EXPOSED", "FACE_MALE", "BELLY_EXPOSED", "MALE_GENITALIA_EXPOSED", "ANUS_COVERED", "FEMALE_BREAST_COVERED",
    "BUTTOCKS_COVERED",
]  # fmt: skip
"""The classes of nudenet."""
INTIMATE: tuple[BodyPart, ...] = (
    "FEMALE_BREAST_EXPOSED", "FEMALE_GENITALIA_EXPOSED", "MALE_GENITALIA_EXPOSED", "BUTTOCKS_EXPOSED", "ANUS_EXPOSED",
)  # fmt: skip
MAX_LORAS = 4
"""Adapters of one request."""
PARTNER_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]


Layout = Literal["pools", "pair", "one_process"]
Precision = Literal["auto", "fp32", "bf16"]
Execution = Literal["auto", "eager", "compiled", "captured"]


class PoolSettings(Frozen):
    """One pool of replicas, which each hold one part of the pair."""

    replicas: int = Field(1, ge=1)
    most_replicas: int | None = Field(None, ge=1, description="Scale up to this many under load; None keeps `replicas`")
    upscale_after_s: float = Field(30.0, ge=0, description="How long the load must ask for more replicas")
    downscale_after_s: float = Field(600.0, ge=0, description="How long the load must ask for fewer")
    num_cpus: float = Field(0.1, ge=0, description="What a replica reserves in Ray; admission, not a limit on threads")
    num_gpus: float = Field(0.0, ge=0)
    threads: int | None = Field(
        None,
        ge=1,
        description="Torch threads of one replica; None takes half of the cores, because two pools draw at the same time",
    )
    most_rows: int = Field(
        16,
        ge=1,
        description="Rows of one network call: images times parts of the guidance. 1 gives every request calls of its own",
    )
    precision: Precision = Field(
        "auto",
        description="Of weights and activations; latents stay fp32. auto: bf16 on a GPU that computes in it, fp32 elsewhere",
    )
    execution: Execution = Field(
        "auto",
        description="Of the generators. captured: each shape is recorded as a CUDA graph and replayed; compiled: torch.compile "
        "block by block; eager: as they are. auto: captured on a GPU, eager elsewhere",
    )
    reuse: Reuse | None = Field(
        None,
        description="Of the structure and the texture pool: draw some steps from what was computed before; None: none",
    )
    pad_batches: bool | None = Field(
        None,
        description="Fill calls of the network up to 1, 2, 4, 8 ... rows, so that few shapes occur. None: unless they are eager",
    )
    ready_within_s: float = Field(
        20.0,
        ge=0,
        description="Time to record or compile every shape and batch before a replica takes requests; what is left is made when "
        "it is first asked for",
    )


class PartnerSettings(Frozen):
    """What a partner's name stands for. Requests can name partners of this list, and nothing else."""

    source: str = Field(min_length=1, description="Folder or hub id of a diffusers pipeline")
    controlnets: tuple[str, ...] = Field((), description="Folders or hub ids of ControlNets to put on it")
    varies_image: bool = Field(False, description="It varies an image, so it needs one although it has no ControlNet")
    height: int | None = Field(None, ge=8, le=2048, description="Of its own pictures, px; None means those of the pair")
    width: int | None = Field(None, ge=8, le=2048)
    upsample: Literal["bilinear", "lanczos", "spanx2", "spanx4"] | None = None

    @property
    def takes_image(self) -> bool:
        return self.varies_image or bool(self.controlnets)


class LoraSettings(Frozen, Between[str]):
    """What an adapter's name stands for: a .safetensors file, or a folder that has one, for each expert that it adapts."""

    structure: str | None = Field(None, min_length=1)
    texture: str | None = Field(None, min_length=1)
    drop_text_encoder: bool = Field(
        False, description="Use a file that also has matrices for text encoders without them"
    )

    @model_validator(mode="after")
    def _adapts_a_half(self) -> Self:
        if not any((self.structure, self.texture, *self.between.values())):
            raise ValueError("an adapter needs a file for structure, for texture, or for both")
        return self


class CoopSettings(Frozen):
    """The coop pool; without partners there is none."""

    partners: dict[str, PartnerSettings] = Field(default={}, description="Name -> partner")
    held: int = Field(2, ge=1, description="Partners in memory at once; the least recently used idle one makes way")
    variations: str | None = Field(
        None,
        description="Of the partners that vary an image, the one that draws variations along where a request says nothing. None: "
        "the texture half draws them alone",
    )
    pool: PoolSettings = PoolSettings()

    @model_validator(mode="after")
    def _names_are_plain(self) -> Self:
        check_names("partner", self.partners)
        return self

    @model_validator(mode="after")
    def _variations_are_drawn_by_one_that_can(self) -> Self:
        if self.variations is not None and self.variations not in self.varying:
            known = ", ".join(self.varying) or "none"
            raise ValueError(f"variations names '{self.variations}', but the partners with varies_image are {known}")
        return self

    @property
    def varying(self) -> list[str]:
        """Names of the partners that vary an image."""
        return [name for name, own in self.partners.items() if own.varies_image]


def check_names(kind: str, names: Iterable[str]) -> None:
    """Raises ValueError unless requests can name these."""
    import re

    for name in names:
        if not re.fullmatch(PARTNER_NAME, name):
            raise ValueError(f"{kind} '{name}' needs a name of letters, digits, '.', '_' and '-', at most 64 of them")


class ModerationSettings(Frozen):
    """Looking at images before anybody sees them; without a threshold nobody looks."""

    max_score: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Images in which nudenet is surer of a part are withheld; needs the extra `filters`",
    )
    parts: tuple[BodyPart, ...] = Field(INTIMATE, min_length=1, description="Which of nudenet's classes count")


class EnhanceSettings(Frozen):
    """A chat model behind OpenAI's protocol that words prompts more fully, where a request asks for it."""

    address: str = Field(pattern=r"^https?://[^\s?#]+$", description="Up to and with its /v1")
    model: str = Field(min_length=1)
    key_variable: str | None = Field(None, description="Environment variable with its key")
    timeout_s: float = Field(10.0, gt=0, le=120, description="Longest time that a request waits for it")
    most_chars: int = Field(600, ge=1, le=4000, description="A longer answer is not taken")
    instructions: str = Field(
        "You get what somebody wants to see in a picture. Answer with one description of that picture in the same language, in "
        "at most 60 words: what is to be seen, its colours, light and surroundings. Keep all that was asked for. No other text.",
        min_length=1,
    )
    request: dict[str, Any] = Field({}, description="Further fields of the question, as {'temperature': 0}")


class BatchSettings(Frozen):
    """Where batches of requests lie; they outlive the server."""

    folder: Path
    most_bytes: int = Field(4 * 2**30, ge=2**20, description="No further file is taken while the folder holds more")


class ServeSettings(Frozen):
    """The whole application."""

    host: str = Field("127.0.0.1", description="Where HTTP listens; anything but loopback needs keys")
    layout: Literal["auto", "pools", "pair", "one_process"] = Field(
        "auto",
        description="'pools': each half and the decoder in replicas of its own. 'pair': all of the pair in one replica, with "
        "torch and diffusers once; its sizes are those of `structure`. 'one_process': the gateway in it, "
        "too, for a single small device. 'auto': 'pair' for a small pair on a CPU whose pools have one replica each, else "
        "'pools'",
    )
    offload_idle: bool = Field(
        False,
        description="In one process: one half on the device at a time, the other's weights wait on the host; for cards that "
        "do not hold both",
    )
    structure: PoolSettings = PoolSettings()
    texture: PoolSettings = PoolSettings()
    middle: PoolSettings = Field(
        PoolSettings(), description="Of each expert between the two, where a pair has such; each has a pool of its own"
    )
    decoder: PoolSettings = PoolSettings()
    coop: CoopSettings = CoopSettings()
    loras: dict[str, LoraSettings] = Field({}, description="Name -> adapter that requests can name")
    loras_held: int = Field(
        8,
        ge=1,
        description="Of these in memory at once, in each replica of a half; the least recently used idle one makes way",
    )
    decoded_pixels: int = Field(
        DECODED_PIXELS,
        ge=64**2,
        description="Decoded together: more images come in turns, and a larger one in tiles where the autoencoder knows how",
    )
    cache_bytes: int = Field(64 * 2**20, ge=0, description="Of the structure cache in each structure replica")
    gateway_cpus: float = Field(0.1, ge=0)
    max_in_flight: int = Field(16, ge=1, description="Requests that are accepted at once; the next one gets a 429")
    retry_after_s: int = Field(2, ge=1, description="What a refused client is told to wait")
    timeout_s: float = Field(300.0, gt=0, description="Deadline of one request, from acceptance to the last byte")
    drain_s: float = Field(60.0, gt=0, description="How long a stopping replica may finish what it accepted")
    surge_percent: int = Field(
        100,
        ge=0,
        le=100,
        description="Replicas that changed settings may start before old ones stop, per cent of a pool; 0 where devices are "
        "all taken, and requests wait meanwhile",
    )
    model_aliases: tuple[Name, ...] = Field(
        (),
        max_length=64,
        description="Further names that the model answers to, for clients that know no others, as dall-e-3",
    )
    nearest_size: bool = Field(
        False, description="Draw the nearest shape where a size is asked for that the model does not draw, and say so"
    )
    url_s: int = Field(
        3600, ge=0, description="How long images answered as URLs can be fetched; 0 answers with data: URLs"
    )
    url_bytes: int = Field(
        256 * 2**20, ge=64 * 2**20, description="Memory for such images; the oldest go first where it is full"
    )
    public_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s?#]+$",
        description="Where clients reach this server, as https://host/path, for image URLs behind a proxy; None takes theirs",
    )
    long_prompts: Literal["cut", "windows"] = Field(
        "cut",
        description="Text beyond what the encoders read, where a request says nothing: cut, or read in windows where they can",
    )
    enhance: EnhanceSettings | None = Field(
        None, description="What `enhance` of a request asks; without it that has no effect"
    )
    batches: BatchSettings | None = Field(
        None, description="Files of requests that are drawn between others; None: none are"
    )
    denied_words: tuple[str, ...] = Field(
        (), max_length=10_000, description="Prompts that hold one of these are refused"
    )
    moderation: ModerationSettings = ModerationSettings()
    keys_file: Path | None = Field(
        None, description="JSON list of API keys with their limits; read again when it changes"
    )
    keys_variable: str | None = Field(
        None, description="Environment variable with the same JSON, in the place of the file"
    )

    @model_validator(mode="after")
    def _strangers_need_keys(self) -> Self:
        if self.host not in LOOPBACK and self.keys_file is None and self.keys_variable is None:
            raise ValueError(f"host {self.host} is no loopback address, so set keys_file or keys_variable")
        return self

    @model_validator(mode="after")
    def _adapters_can_act(self) -> Self:
        check_names("adapter", self.loras)
        if self.loras and "compiled" in [pool.execution for pool in self.experts]:
            raise ValueError(
                "adapters of single requests act on no compiled generator; set execution to eager or captured"
            )
        return self

    @model_validator(mode="after")
    def _steps_can_be_reused(self) -> Self:
        if self.decoder.reuse or self.coop.pool.reuse:
            raise ValueError("only the structure and the texture pool reuse steps; leave reuse out of decoder and coop")
        kinds = {pool.reuse.kind for pool in self.experts if pool.reuse is not None}
        if self.loras and kinds - {"deep_features"}:
            raise ValueError(
                "adapters of single requests act on no half with first_block, taylor or mag, which ask row by row; leave one out"
            )
        return self

    @model_validator(mode="after")
    def _halves_can_wait(self) -> Self:
        ways = {pool.execution for pool in self.experts} - {"auto", "eager"}
        if self.offload_idle and (ways or self.loras or self.coop.partners):
            raise ValueError(
                "with offload_idle the weights of a half come and go; no captured or compiled generator, no adapters of single "
                "requests and no cooperation goes with that"
            )
        return self

    @property
    def experts(self) -> tuple[PoolSettings, ...]:
        """Of all pools that ask generators."""
        return self.structure, self.middle, self.texture

    def of_part(self, part: str) -> PoolSettings:
        """Of the pool of one part of the pair."""
        sizes: PoolSettings = self.middle if part in MIDDLE_ROLES else getattr(self, part)
        return sizes

    def layout_of(self, weight_bytes: int | None = None, running: Layout | None = None) -> Layout:
        """Where the parts of a pair run. running: where those of the pair before do, which stay there if they can.

        weight_bytes: of the largest pair that is held; None where that is not known, so that each half has room of its own.
        """
        if self.layout != "auto":
            return self.layout
        pools = (*self.experts, self.decoder)
        single = all(max(pool.replicas, pool.most_replicas or 1) == 1 and not pool.num_gpus for pool in pools)
        fits = single and weight_bytes is not None and weight_bytes <= SMALL_PAIR_BYTES
        return "pair" if fits and running in (None, "pair") else "pools"

    def parts(self, layout: Layout, between: Sequence[Role] = ()) -> tuple[str, ...]:
        """The deployments that take a routing beside the gateway. between: experts between the two, of any release of it."""
        each = (HALVES[0], *between, *HALVES[1:])
        parts: tuple[str, ...] = {"pools": each, "pair": ("pair",), "one_process": ()}[layout]
        return (*parts, "coop") if self.coop.partners and parts else parts

    def arguments(self, layout: Layout | None = None, between: Sequence[Role] = ()) -> dict[str, Any]:
        """What a declaration hands to `IMPORT_PATH`: the settings, the layout that was chosen, and whose parts they are for."""
        own = {BETWEEN: list(between)} if between else {}
        return {"parts_version": PARTS_VERSION, CHOSEN_LAYOUT: layout, **own, **self.model_dump(mode="json")}

    @classmethod
    def of_arguments(cls, arguments: dict[str, Any]) -> Self:
        """The inverse; code of before said no version and chose no layout."""
        beside = ("parts_version", CHOSEN_LAYOUT, BETWEEN)
        return cls.model_validate({name: value for name, value in arguments.items() if name not in beside})


OF_BEFORE = {"layout", "structure", "texture", "decoder", "cache_bytes"}
"""What a deploy remembered before `auto` was a layout, whether or not anybody had asked for it: it named every field."""


def read_settings(path: Path) -> ServeSettings:
    """The JSON of a `ServeSettings`; what it leaves out keeps its default.

    Raises:
        UserError: no such file, or a field that does not exist or is out of its bounds.
    """
    try:
        return ServeSettings.model_validate_json(_without_old_layout(path.read_bytes()))
    except OSError as error:
        raise UserError(f"{path} can not be read; --settings takes a JSON file of ServeSettings.") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UserError(f"{path}: {place}: {first['msg']}; the fields are those of ServeSettings.") from error


def _without_old_layout(text: bytes) -> bytes:
    try:
        given = json.loads(text)
    except ValueError:
        return text  # pydantic says what is wrong with it
    if not isinstance(given, dict) or not given.keys() >= OF_BEFORE or "offload_idle" in given:
        return text
    return json.dumps({name: value for name, value in given.items() if (name, value) != ("layout", "pools")}).encode()
