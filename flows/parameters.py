"""The forms of the dashboard: what a person may choose for each flow, with bounds and explanations.

The dashboard draws them from the JSON schema; Python validators would not run there.
"""

from typing import Annotated, Literal

from pydantic import Field

from flows.form import Form, Source
from flows.recipe_changes import PartnerChanges, RecipeChanges

RecipeName = Literal["demo", "demo_flow", "starter", "tiny", "time_decoupling", "sdxl_half", "pangu_draw_5b"]
"""Each is a function of `pangu.recipes` that trains a pair; a test compares."""
PartnerRecipeName = Literal["single", "edge_control"]
"""Each trains one partner of Coop-Diffusion: a generator for all timesteps, or a ControlNet on one; a test compares."""


Card = Annotated[
    str,
    Field(
        min_length=1,
        max_length=500,
        description="The dataset card: a name in datasets/ (`openmoji`), or the path of a YAML file",
    ),
]
Recipe = Annotated[
    RecipeName,
    Field(description="The recipe: network sizes, steps, noise schedule, sampling, gate"),
]
Version = Annotated[int, Field(ge=0, description="Version of the dataset table")]
Identifier = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9._-]+$")]
Folder = Annotated[str, Field(min_length=1, max_length=1000)]


TimeoutH = Annotated[
    float,
    Field(
        gt=0,
        le=8760,
        description="Hours after which a stage is stopped; a run that is started again continues where it was",
    ),
]
WEEK_H = 168.0


class EvaluationOptions(Form):
    """How the pair is measured."""

    prompts: int = Field(24, ge=1, le=1_000_000, description="Captions per language and split, at most")
    split: Literal["automatic", "train", "held_out"] = Field(
        "automatic",
        description="Rows that distances and CLIP scores are measured on; automatic: held-out ones where there are any",
    )
    metrics: Literal[
        "automatic", "retrieval", "retrieval,outside", "retrieval,fid,kid", "retrieval,fid,kid,loss", "retrieval,loss"
    ] = Field(
        "automatic",
        description="What is measured; automatic: retrieval, styles where there are any, and whatever the networks named below "
        "are for",
    )
    inception: str = Field("", max_length=1000, description="TorchScript Inception network for FID, KID and IS")
    clip: str = Field("", max_length=1000, description="CLIP model, a folder or a hub id")
    cn_clip: str = Field("", max_length=1000, description="Chinese CLIP model, a folder or a hub id")

    matrix: bool = Field(
        False,
        description="Also draw the new halves with the champion's, to see which half became better (twice the time)",
    )
    templates: str = Field(
        "",
        max_length=1000,
        description="File of templates that captions are also drawn in, or untrained: those that judge the embedded pair",
    )
    keywords: bool = Field(False, description="Also draw rows by one of their keywords")

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
    timeout_h: TimeoutH = WEEK_H
    retry: bool = Field(False, description="Try failures that may pass again, waiting as long as their reason asks")
    every_node: bool = Field(
        False, description="Download on every node of the Ray cluster, one process each, instead of where flows run"
    )


class Preparing(Form):
    """Where rows are made; it changes how long that takes, not what comes out."""

    workers: int = Field(1, ge=1, le=100_000, description="Processes that make rows, each with a core of its own")
    every_node: bool = Field(
        False, description="Make rows in actors of the Ray cluster, on any of its nodes, instead of on one machine"
    )

    @property
    def arguments(self) -> list[str]:
        """The options of `pangu prepare`."""
        return ["--workers", str(self.workers), *(["--on-ray"] if self.every_node else [])]


class PrepareDataset(Form):
    """Turn downloaded images into one version of the dataset table."""

    card: Card = "openmoji"
    timeout_h: TimeoutH = WEEK_H
    ingest_id: Identifier = Field(description="The id that ingest-images reported")
    preparing: Preparing = Field(Preparing(), description="Where rows are made")


class Devices(Form):
    """Who encodes and draws; it changes how long that takes, not what comes out."""

    workers: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="How many compute; empty: as many as the cluster's GPUs carry, or one without any",
    )
    gpus: float = Field(1.0, gt=0, le=64, description="GPUs a worker, where there are any; 0.5: two workers share one")

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
    changes: RecipeChanges = Field(RecipeChanges(), description="What is done otherwise than the recipe says")
    devices: Devices = Field(Devices(), description="Who encodes")


class TrainGenerators(EncodeDataset):
    """Encode one version of a dataset and train both generators on it, at the same time."""


class TrainPartner(Form):
    """Encode one version of a dataset and train one partner of Coop-Diffusion on it."""

    card: Card = "openmoji"
    timeout_h: TimeoutH = WEEK_H
    recipe: PartnerRecipeName = Field(
        "single", description="single: a generator for all timesteps; edge_control: a ControlNet for edges on one"
    )
    version: Version
    changes: PartnerChanges = Field(PartnerChanges(), description="What is done otherwise than the recipe says")
    devices: Devices = Field(Devices(), description="Who encodes")


class EvaluatePair(Form):
    """Measure a pair of generators by the evaluation protocol."""

    card: Card = "openmoji"
    timeout_h: TimeoutH = WEEK_H
    recipe: Recipe = "demo"
    encode_id: Identifier = Field(description="The id that encoding reported")
    structure: Folder = Field(description="Folder of the structure generator")
    texture: Folder = Field(description="Folder of the texture generator")
    evaluation: EvaluationOptions = Field(EvaluationOptions(), description="How the pair is measured")
    devices: Devices = Field(Devices(), description="Who draws")


class ReleasePair(Form):
    """Register a pair, point the alias `champion` to it, and serve it."""

    pair: Folder = Field(description="Folder of the pair")
    timeout_h: TimeoutH = WEEK_H
    structure: Folder = Field(description="Folder of the structure generator")
    texture: Folder = Field(description="Folder of the texture generator")
    metrics: Folder = Field(description="File with the outcome of the evaluation, as JSON")
    deploy: bool = Field(True, description="Also serve the pair when it is released")


class DeployPair(Form):
    """Serve a registered pair; a running server swaps to it without downtime."""

    pair_version: int = Field(ge=1, description="Version of the registered model pangu-pair")
    timeout_h: TimeoutH = WEEK_H


class RollbackPair(Form):
    """Go back to the release before: `champion` and `previous` change places, and the champion is served."""

    reason: str = Field("", max_length=2000, description="Why; it stays with the run, for whoever asks later")
    timeout_h: TimeoutH = WEEK_H


class VacuumDatasets(Form):
    """Delete the files that only old versions of a dataset hold."""

    dataset: str = Field(
        "", max_length=64, pattern=r"^([a-z0-9][a-z0-9_-]*)?$", description="Name of one dataset; empty: every one"
    )
    timeout_h: TimeoutH = WEEK_H
    keep: int = Field(5, ge=1, le=10_000, description="So many of the newest versions stay readable")
    dry_run: bool = Field(True, description="Only say what would be deleted")


class RetrainPair(Form):
    """From a card to a served pair: ingest, prepare, encode, train, evaluate, gate, release, deploy."""

    card: Card = "openmoji"
    timeout_h: TimeoutH = WEEK_H
    recipe: Recipe = "demo"
    recipe_file: str = Field(
        "",
        max_length=1000,
        pattern=r"^(.+\.(json|yaml|yml))?$",
        description="File of a recipe in its place, such as the one that `pangu new` leaves beside a card",
    )
    changes: RecipeChanges = Field(RecipeChanges(), description="What is done otherwise than the recipe says")
    evaluation: EvaluationOptions = Field(EvaluationOptions(), description="How the pair is measured")
    approval: Literal["none", "person"] = Field(
        "none", description="person: the run pauses behind the gate until somebody looks at it and resumes it"
    )
    deploy: bool = Field(True, description="Also serve the pair when it is released")
    every_node: bool = Field(
        False, description="Download on every node of the Ray cluster, one process each, instead of where flows run"
    )
    preparing: Preparing = Field(Preparing(), description="Where rows are made")
    devices: Devices = Field(Devices(), description="Who encodes and who draws")


class DistillPair(RetrainPair):
    """Each half of a released pair teaches a student that needs few steps; the students pass the same gate."""

    first = ("card", "teacher", "student_steps")

    teacher: Source = Field(
        "models:/pangu-pair@champion",
        description="The pair that is distilled: a release, `embedded` or a folder; the recipe is that of its networks",
    )
    student_steps: int = Field(2, ge=1, le=50, description="Sampling steps that each half is taught to need")
