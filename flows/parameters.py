"""The forms of the dashboard: what a person may choose for each flow, with bounds and explanations.

The dashboard draws them from the JSON schema; Python validators would not run there.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

RecipeName = Literal["demo", "starter", "tiny", "time_decoupling", "sdxl_half", "pangu_draw_5b"]
"""Each is a function of `pangu.recipes` that trains a pair; a test compares."""
PartnerRecipeName = Literal["single", "edge_control"]
"""Each trains one partner of Coop-Diffusion: a generator for all timesteps, or a ControlNet on one; a test compares."""


def _at(position: int) -> dict[str, Any]:
    """The place of a field in the form."""
    return {"position": position}


Card = Annotated[
    str,
    Field(
        min_length=1,
        max_length=500,
        description="The dataset card: a name in datasets/ (`openmoji`), or the path of a YAML file",
        json_schema_extra=_at(0),
    ),
]
Recipe = Annotated[
    RecipeName,
    Field(description="The recipe: network sizes, steps, noise schedule, sampling, gate", json_schema_extra=_at(2)),
]
Version = Annotated[int, Field(ge=0, description="Version of the dataset table", json_schema_extra=_at(3))]
Identifier = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9._-]+$")]
Folder = Annotated[str, Field(min_length=1, max_length=1000)]
Source = Annotated[str, Field(min_length=1, max_length=1000)]


class Form(BaseModel):
    """A flow's parameters."""

    model_config = ConfigDict(extra="forbid")


TimeoutH = Annotated[
    float,
    Field(
        gt=0,
        le=8760,
        description="Hours after which a stage is stopped; a run that is started again continues where it was",
        json_schema_extra=_at(1),
    ),
]
WEEK_H = 168.0


class CommonChanges(Form):
    """What a run may do otherwise than any recipe; an empty field keeps the recipe's value.

    Places 0 to 2 are left to what the recipe's own kind has.
    """

    batch_size: int | None = Field(
        None, ge=1, le=1_000_000, description="Images per optimizer step, of every job", json_schema_extra=_at(3)
    )
    lr_peak: float | None = Field(
        None, gt=0, le=1, description="Learning rate after the warm-up", json_schema_extra=_at(4)
    )
    lr_final: float | None = Field(
        None, ge=0, le=1, description="Learning rate of the last step", json_schema_extra=_at(5)
    )
    warmup_steps: int | None = Field(
        None, ge=0, le=100_000_000, description="Steps in which the learning rate rises", json_schema_extra=_at(6)
    )
    ema_decay: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Decay of the running mean of the weights that is exported",
        json_schema_extra=_at(7),
    )
    zh_share: float | None = Field(
        None, ge=0, le=1, description="Share of Chinese captions; 0 is English alone", json_schema_extra=_at(8)
    )
    template_share: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of captions put into the recipe's templates, if any",
        json_schema_extra=_at(9),
    )
    keyword_share: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of captions that give way to a keyword of the row",
        json_schema_extra=_at(10),
    )
    seed: int | None = Field(
        None, ge=0, le=2**31 - 1, description="Seed of rows, noise and dropouts", json_schema_extra=_at(11)
    )
    workers: int | None = Field(
        None, ge=1, le=100_000, description="Data-parallel workers of each training job", json_schema_extra=_at(12)
    )
    num_inference_steps: int | None = Field(
        None, ge=1, le=1000, description="Sampling steps of sample grids, evaluation and API", json_schema_extra=_at(13)
    )
    guidance_scale: float | None = Field(
        None, ge=0, le=50, description="Guidance scale of sample grids, evaluation and API", json_schema_extra=_at(14)
    )
    sample_every: int | None = Field(
        None, ge=0, le=100_000_000, description="Steps between sample grids; 0: none", json_schema_extra=_at(15)
    )
    start_from: Source | None = Field(
        None,
        description="Weights to tune: `embedded`, a release (`models:/pangu-pair@champion`), a folder or a hub id; "
        "`nothing` for random ones. For edge_control: the generator that is controlled",
        json_schema_extra=_at(16),
    )


class RecipeChanges(CommonChanges):
    """What this run does otherwise than the recipe of its pair; an empty field keeps the recipe's value."""

    structure_steps: int | None = Field(
        None, ge=1, le=100_000_000, description="Optimizer steps of the structure generator", json_schema_extra=_at(0)
    )
    texture_steps: int | None = Field(
        None, ge=1, le=100_000_000, description="Optimizer steps of the texture generator", json_schema_extra=_at(1)
    )
    boundary: int | None = Field(
        None, ge=1, le=9999, description="T_struct: structure owns the timesteps from here up", json_schema_extra=_at(2)
    )


class PartnerChanges(CommonChanges):
    """What this run does otherwise than the recipe of its partner; an empty field keeps the recipe's value."""

    steps: int | None = Field(None, ge=1, le=100_000_000, description="Optimizer steps", json_schema_extra=_at(0))
    resolution: int | None = Field(
        None, ge=8, le=8192, description="Pixels per side of what it draws", json_schema_extra=_at(1)
    )
    autoencoder: Source | None = Field(
        None,
        description="Its latent space: embedded, the folder of an autoencoder, or a hub id",
        json_schema_extra=_at(2),
    )
    autoencoder_subfolder: Source | None = Field(
        None, description="Where in that folder or repository it lies, e.g. vae", json_schema_extra=_at(17)
    )
    start_subfolder: Source | None = Field(
        None, description="Where in it the UNet lies, e.g. unet, or structure in a pair", json_schema_extra=_at(18)
    )
    new_latents: bool = Field(
        False,
        description="Go over to another autoencoder than start_from was trained with; first and last layer begin anew",
        json_schema_extra=_at(19),
    )


class EvaluationOptions(Form):
    """How the pair is measured."""

    prompts: int = Field(
        24, ge=1, le=1_000_000, description="Captions per language and split, at most", json_schema_extra=_at(0)
    )
    split: Literal["automatic", "train", "held_out"] = Field(
        "automatic",
        description="Rows that distances and CLIP scores are measured on; automatic: held-out ones where there are any",
        json_schema_extra=_at(1),
    )
    metrics: Literal[
        "automatic", "retrieval", "retrieval,outside", "retrieval,fid,kid", "retrieval,fid,kid,loss", "retrieval,loss"
    ] = Field(
        "automatic",
        description="What is measured; automatic: retrieval, styles where there are any, and whatever the networks named below "
        "are for",
        json_schema_extra=_at(2),
    )
    inception: str = Field(
        "", max_length=1000, description="TorchScript Inception network for FID, KID and IS", json_schema_extra=_at(3)
    )
    clip: str = Field("", max_length=1000, description="CLIP model, a folder or a hub id", json_schema_extra=_at(4))
    cn_clip: str = Field(
        "", max_length=1000, description="Chinese CLIP model, a folder or a hub id", json_schema_extra=_at(5)
    )

    matrix: bool = Field(
        False,
        description="Also draw the new halves with the champion's, to see which half became better (twice the time)",
        json_schema_extra=_at(6),
    )
    templates: str = Field(
        "",
        max_length=1000,
        description="File of templates that captions are also drawn in, or untrained: those that judge the embedded pair",
        json_schema_extra=_at(7),
    )
    keywords: bool = Field(False, description="Also draw rows by one of their keywords", json_schema_extra=_at(8))

    @property
    def judges(self) -> list[str]:
        """The options of `pangu evaluate` and `pangu gate` that name the networks which judge."""
        named = {"--inception": self.inception, "--clip": self.clip, "--cn-clip": self.cn_clip}
        return [word for option, value in named.items() if value for word in (option, value)]

    @property
    def arguments(self) -> list[str]:
        """The options of `pangu evaluate`."""
        chosen = {"--split": self.split, "--metrics": self.metrics}
        words = [word for option, value in chosen.items() if value != "automatic" for word in (option, value)]
        words += ["--templates", self.templates] if self.templates else []
        words += ["--keywords"] if self.keywords else []
        return ["--prompts", str(self.prompts), *words, *self.judges]


class IngestImages(Form):
    """Fetch the images that a card's source lists."""

    card: Card = "openmoji"
    retry: bool = Field(
        False,
        description="Try failures that may pass again, waiting as long as their reason asks",
        json_schema_extra=_at(2),
    )
    every_node: bool = Field(
        False,
        description="Download on every node of the Ray cluster, one process each, instead of where flows run",
        json_schema_extra=_at(3),
    )
    timeout_h: TimeoutH = WEEK_H


class Preparing(Form):
    """Where rows are made; it changes how long that takes, not what comes out."""

    workers: int = Field(
        1,
        ge=1,
        le=100_000,
        description="Processes that make rows, each with a core of its own",
        json_schema_extra=_at(0),
    )
    every_node: bool = Field(
        False,
        description="Make rows in actors of the Ray cluster, on any of its nodes, instead of on one machine",
        json_schema_extra=_at(1),
    )

    @property
    def arguments(self) -> list[str]:
        """The options of `pangu prepare`."""
        return ["--workers", str(self.workers), *(["--on-ray"] if self.every_node else [])]


class PrepareDataset(Form):
    """Turn downloaded images into one version of the dataset table."""

    card: Card = "openmoji"
    timeout_h: TimeoutH = WEEK_H
    ingest_id: Identifier = Field(description="The id that ingest-images reported", json_schema_extra=_at(2))
    preparing: Preparing = Field(Preparing(), description="Where rows are made", json_schema_extra=_at(3))


class Devices(Form):
    """Who encodes and draws; it changes how long that takes, not what comes out."""

    workers: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="How many compute; empty: as many as the cluster's GPUs carry, or one without any",
        json_schema_extra=_at(0),
    )
    gpus: float = Field(
        1.0,
        gt=0,
        le=64,
        description="GPUs a worker, where there are any; 0.5: two workers share one",
        json_schema_extra=_at(1),
    )

    @property
    def arguments(self) -> list[str]:
        """The options of `pangu encode`, `pangu evaluate` and `pangu pair-matrix`."""
        workers = [] if self.workers is None else ["--workers", str(self.workers)]
        return ["--on-ray", *workers, "--gpus", f"{self.gpus:g}"]


class EncodeDataset(Form):
    """Turn one dataset version into latents and text embeddings."""

    card: Card = "openmoji"
    timeout_h: TimeoutH = WEEK_H
    recipe: Recipe = "demo"
    version: Version
    changes: RecipeChanges = Field(
        RecipeChanges(), description="What is done otherwise than the recipe says", json_schema_extra=_at(4)
    )
    devices: Devices = Field(Devices(), description="Who encodes", json_schema_extra=_at(5))


class TrainGenerators(EncodeDataset):
    """Encode one version of a dataset and train both generators on it, at the same time."""


class TrainPartner(Form):
    """Encode one version of a dataset and train one partner of Coop-Diffusion on it."""

    card: Card = "openmoji"
    timeout_h: TimeoutH = WEEK_H
    recipe: PartnerRecipeName = Field(
        "single",
        description="single: a generator for all timesteps; edge_control: a ControlNet for edges on one",
        json_schema_extra=_at(2),
    )
    version: Version
    changes: PartnerChanges = Field(
        PartnerChanges(), description="What is done otherwise than the recipe says", json_schema_extra=_at(4)
    )
    devices: Devices = Field(Devices(), description="Who encodes", json_schema_extra=_at(5))


class EvaluatePair(Form):
    """Measure a pair of generators by the evaluation protocol."""

    card: Card = "openmoji"
    timeout_h: TimeoutH = WEEK_H
    recipe: Recipe = "demo"
    encode_id: Identifier = Field(description="The id that encoding reported", json_schema_extra=_at(3))
    structure: Folder = Field(description="Folder of the structure generator", json_schema_extra=_at(4))
    texture: Folder = Field(description="Folder of the texture generator", json_schema_extra=_at(5))
    evaluation: EvaluationOptions = Field(
        EvaluationOptions(), description="How the pair is measured", json_schema_extra=_at(6)
    )
    devices: Devices = Field(Devices(), description="Who draws", json_schema_extra=_at(7))


class ReleasePair(Form):
    """Register a pair, point the alias `champion` to it, and serve it."""

    pair: Folder = Field(description="Folder of the pair", json_schema_extra=_at(0))
    timeout_h: TimeoutH = WEEK_H
    structure: Folder = Field(description="Folder of the structure generator", json_schema_extra=_at(2))
    texture: Folder = Field(description="Folder of the texture generator", json_schema_extra=_at(3))
    metrics: Folder = Field(description="File with the outcome of the evaluation, as JSON", json_schema_extra=_at(4))
    deploy: bool = Field(True, description="Also serve the pair when it is released", json_schema_extra=_at(5))


class DeployPair(Form):
    """Serve a registered pair; a running server swaps to it without downtime."""

    pair_version: int = Field(ge=1, description="Version of the registered model pangu-pair", json_schema_extra=_at(0))
    timeout_h: TimeoutH = WEEK_H


class RollbackPair(Form):
    """Go back to the release before: `champion` and `previous` change places, and the champion is served."""

    reason: str = Field(
        "", max_length=2000, description="Why; it stays with the run, for whoever asks later", json_schema_extra=_at(0)
    )
    timeout_h: TimeoutH = WEEK_H


class VacuumDatasets(Form):
    """Delete the files that only old versions of a dataset hold."""

    dataset: str = Field(
        "",
        max_length=64,
        pattern=r"^([a-z0-9][a-z0-9_-]*)?$",
        description="Name of one dataset; empty: every one",
        json_schema_extra=_at(0),
    )
    timeout_h: TimeoutH = WEEK_H
    keep: int = Field(
        5, ge=1, le=10_000, description="So many of the newest versions stay readable", json_schema_extra=_at(2)
    )
    dry_run: bool = Field(True, description="Only say what would be deleted", json_schema_extra=_at(3))


class RetrainPair(Form):
    """From a card to a served pair: ingest, prepare, encode, train, evaluate, gate, release, deploy."""

    card: Card = "openmoji"
    timeout_h: TimeoutH = WEEK_H
    recipe: Recipe = "demo"
    changes: RecipeChanges = Field(
        RecipeChanges(), description="What is done otherwise than the recipe says", json_schema_extra=_at(3)
    )
    evaluation: EvaluationOptions = Field(
        EvaluationOptions(), description="How the pair is measured", json_schema_extra=_at(4)
    )
    approval: Literal["none", "person"] = Field(
        "none",
        description="person: the run pauses behind the gate until somebody looks at it and resumes it",
        json_schema_extra=_at(5),
    )
    deploy: bool = Field(True, description="Also serve the pair when it is released", json_schema_extra=_at(6))
    every_node: bool = Field(
        False,
        description="Download on every node of the Ray cluster, one process each, instead of where flows run",
        json_schema_extra=_at(7),
    )
    preparing: Preparing = Field(Preparing(), description="Where rows are made", json_schema_extra=_at(8))
    devices: Devices = Field(Devices(), description="Who encodes and who draws", json_schema_extra=_at(9))
