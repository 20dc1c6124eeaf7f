"""The forms of the dashboard: what a person may choose for each flow, with bounds and explanations.

The dashboard draws them from the JSON schema; Python validators would not run there.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from flows.card_field import CardForm
from flows.form import Form, Source
from flows.options import Devices, EvaluationOptions, FurtherDataset, Preparing
from flows.recipe_changes import PartnerChanges, RecipeChanges
from pangu.config import MIDDLE_ROLES
from pangu.data.card import find_card, recipe_beside
from pangu.forms import CARD_FILE, CARD_NAME
from pangu.names import LATEST

RecipeName = Literal[
    "demo", "few_pictures", "demo_flow", "starter", "tiny", "time_decoupling", "sdxl_half", "pangu_draw_5b"
]
"""Each is a function of `pangu.recipes` that trains a pair; a test compares."""
PartnerRecipeName = Literal["single", "edge_control"]
"""Each trains one partner of Coop-Diffusion: a generator for all timesteps, or a ControlNet on one; a test compares."""
AUTOMATIC = "automatic"
WEEK_H = 168.0

Recipe = Annotated[
    Literal["automatic", RecipeName],
    Field(
        title="Recipe",
        description="Network sizes, steps, noise schedule, sampling, gate; automatic: what `pangu new` left beside the card, or "
        "demo",
    ),
]
RecipeFile = Annotated[
    str,
    Field(
        max_length=1000,
        pattern=r"^(.+\.(json|yaml|yml))?$",
        title="Recipe's file",
        description="File of a recipe in place of one from the list",
    ),
]
Steps = Annotated[
    int | None,
    Field(
        ge=1,
        le=100_000_000,
        title="Training steps",
        description="Optimizer steps, of each half of a pair; empty: as the recipe says",
    ),
]
Version = Annotated[
    int | None,
    Field(ge=0, title="Dataset version", description="Number of a version of the dataset; empty: the newest"),
]
Identifier = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9._-]+$")]
Folder = Annotated[str, Field(min_length=1, max_length=1000)]
TimeoutH = Annotated[
    float,
    Field(
        gt=0,
        le=8760,
        title="Time limit of a stage, hours",
        description="Then it is stopped; a run that is started again continues where it was; empty: 168, which is a week",
    ),
]
EveryNode = Annotated[
    bool,
    Field(
        title="Download on every node",
        description="One process on each node of the Ray cluster, instead of one where flows run",
    ),
]
Serve = Annotated[bool, Field(title="Serve it", description="Also serve the pair when it is released")]
WhoComputes = Annotated[Devices, Field(title="Devices", description="Who encodes, and who draws")]
Measuring = Annotated[EvaluationOptions, Field(title="Evaluation", description="How the pair is measured")]
WhereRowsAreMade = Annotated[Preparing, Field(title="Preparing", description="Where rows are made")]
Further = Annotated[
    tuple[FurtherDataset, ...],
    # A list of one is what a folded group looks like, and comes opened.
    BeforeValidator(lambda given: [given] if isinstance(given, Mapping | FurtherDataset) else given),
    Field(
        max_length=64,
        title="Further datasets",
        description="Trained on beside the card's, each with a weight; add as many as there are",
    ),
]
OfRecipe = Annotated[
    RecipeChanges,
    Field(title="Changes of the recipe", description="An empty field keeps what the recipe says"),
]
HalfFolder = Annotated[
    str, Field(min_length=1, max_length=1000, description="Its folder, a pair, a run, or latest; empty: latest")
]


Middles = Annotated[
    tuple[HalfFolder, ...],
    Field(
        max_length=len(MIDDLE_ROLES),
        title="Experts between the two",
        description="Of more than two: each between structure and texture, the noisiest first",
    ),
]


class IngestImages(CardForm):
    """Fetch the images that a card's source lists."""

    verb: ClassVar[str] = "ingest"

    retry: bool = Field(
        False,
        title="Try failures again",
        description="Those that may pass, waiting as long as their reason asks",
    )
    every_node: EveryNode = False
    timeout_h: TimeoutH = WEEK_H


class PrepareDataset(CardForm):
    """Turn downloaded images into one version of the dataset table."""

    verb: ClassVar[str] = "prepare"

    ingest_id: Identifier = Field(
        LATEST, title="Ingest", description="The id that ingest-images reported, or latest; empty: latest"
    )
    preparing: WhereRowsAreMade = Preparing()
    timeout_h: TimeoutH = WEEK_H


class RecipeForm(CardForm):
    """A form about a pair's recipe."""

    recipe: Recipe = "automatic"
    recipe_file: RecipeFile = ""

    @property
    def chosen_recipe(self) -> str:
        """Name or file of the recipe.

        Raises:
            UserError: there is no such card to look beside.
        """
        if self.recipe_file or self.recipe != AUTOMATIC:
            return self.recipe_file or self.recipe
        beside: Path | None = recipe_beside(find_card(self.card))
        return str(beside) if beside else "demo"


class EncodeDataset(RecipeForm):
    """Turn one dataset version into latents and text embeddings."""

    verb: ClassVar[str] = "encode"
    shown: ClassVar[tuple[str, ...]] = (CARD_NAME, "recipe", "version")

    version: Version = None
    changes: OfRecipe = RecipeChanges()
    devices: WhoComputes = Devices()
    timeout_h: TimeoutH = WEEK_H

    @property
    def deed(self) -> str:
        return super().deed if self.version is None else f"{super().deed} v{self.version}"


class TrainGenerators(EncodeDataset):
    """Encode one version of a dataset and train both generators on it, at the same time."""

    verb: ClassVar[str] = "train"
    shown: ClassVar[tuple[str, ...]] = (CARD_NAME, "recipe", "steps", "version")

    steps: Steps = None
    further: Further = ()

    @property
    def all_changes(self) -> RecipeChanges:
        """With the steps, where those of a half are not given."""
        return self.changes.with_steps(self.steps)


class TrainPartner(CardForm):
    """Encode one version of a dataset and train one partner of Coop-Diffusion on it."""

    verb: ClassVar[str] = "train a partner on"
    shown: ClassVar[tuple[str, ...]] = (CARD_NAME, "recipe", "steps", "version")

    recipe: PartnerRecipeName = Field(
        "single",
        title="Recipe",
        description="single: a generator for all timesteps; edge_control: a ControlNet for edges on one",
    )
    steps: Steps = None
    version: Version = None
    changes: PartnerChanges = Field(
        PartnerChanges(), title="Changes of the recipe", description="An empty field keeps what the recipe says"
    )
    devices: WhoComputes = Devices()
    timeout_h: TimeoutH = WEEK_H

    @property
    def all_changes(self) -> PartnerChanges:
        """With the steps, where they are not given among the changes."""
        return self.changes.with_steps(self.steps)

    @property
    def deed(self) -> str:
        return super().deed if self.version is None else f"{super().deed} v{self.version}"


class EvaluatePair(RecipeForm):
    """Measure a pair of generators by the evaluation protocol."""

    verb: ClassVar[str] = "evaluate"
    shown: ClassVar[tuple[str, ...]] = (CARD_NAME, "recipe", "structure", "texture")

    structure: HalfFolder = Field(LATEST, title="Structure generator")
    texture: HalfFolder = Field(LATEST, title="Texture generator")
    middles: Middles = ()
    encode_id: Identifier = Field(
        LATEST, title="Encoded dataset", description="The id that encoding reported, or latest; empty: latest"
    )
    evaluation: Measuring = EvaluationOptions()
    devices: WhoComputes = Devices()
    timeout_h: TimeoutH = WEEK_H


class ReleasePair(Form):
    """Register a pair, point the alias `champion` to it, and serve it."""

    shown: ClassVar[tuple[str, ...]] = ("pair", "structure", "texture", "metrics", "deploy")

    pair: Folder = Field(title="Pair", description="Its folder, as evaluate-pair reported it")
    structure: Folder = Field(title="Structure generator", description="Its folder")
    texture: Folder = Field(title="Texture generator", description="Its folder")
    middles: Middles = ()
    metrics: Folder = Field(title="Figures", description="File with the outcome of the evaluation, as JSON")
    deploy: Serve = True
    timeout_h: TimeoutH = WEEK_H

    @property
    def deed(self) -> str:
        return "release a pair"


class DeployPair(Form):
    """Serve a registered pair; a running server swaps to it without downtime."""

    shown: ClassVar[tuple[str, ...]] = ("pair_version",)

    pair_version: int = Field(
        ge=1, title="Version of the pair", description="Number of a version of the registered model pangu-pair"
    )
    timeout_h: TimeoutH = WEEK_H

    @property
    def deed(self) -> str:
        return f"deploy pair v{self.pair_version}"


class RollbackPair(Form):
    """Go back to the release before: `champion` and `previous` change places, and the champion is served."""

    shown: ClassVar[tuple[str, ...]] = ("reason",)

    reason: str = Field("", max_length=2000, title="Why", description="It stays with the run, for whoever asks later")
    timeout_h: TimeoutH = WEEK_H

    @property
    def deed(self) -> str:
        return "roll back"


class VacuumDatasets(Form):
    """Delete the files that only old versions of a dataset hold."""

    shown: ClassVar[tuple[str, ...]] = ("dataset", "keep", "dry_run")

    dataset: str = Field(
        "",
        max_length=64,
        pattern=r"^([a-z0-9][a-z0-9_-]*)?$",
        title="Dataset",
        description="Its name; empty: every one",
    )
    keep: int = Field(
        5, ge=1, le=10_000, title="Versions to keep, number", description="The newest stay readable; empty: 5"
    )
    dry_run: bool = Field(True, title="Only say it", description="Say what would be deleted, and delete nothing")
    timeout_h: TimeoutH = WEEK_H

    @property
    def deed(self) -> str:
        return f"vacuum {self.dataset or 'all datasets'}"


class RetrainPair(RecipeForm):
    """From a card to a served pair: ingest, prepare, encode, train, evaluate, gate, release, deploy."""

    verb: ClassVar[str] = "retrain"
    shown: ClassVar[tuple[str, ...]] = (CARD_NAME, "recipe", "steps")
    first: ClassVar[tuple[str, ...]] = ("approval", "deploy", CARD_FILE, "recipe_file", "changes")

    steps: Steps = None
    further: Further = ()
    changes: OfRecipe = RecipeChanges()
    evaluation: Measuring = EvaluationOptions()
    approval: Literal["none", "person"] = Field(
        "none",
        title="Approval",
        description="person: the run pauses behind the gate until somebody looks at it and resumes it",
    )
    deploy: Serve = True
    every_node: EveryNode = False
    preparing: WhereRowsAreMade = Preparing()
    devices: WhoComputes = Devices()
    timeout_h: TimeoutH = WEEK_H

    @property
    def all_changes(self) -> RecipeChanges:
        """With the steps, where those of a half are not given."""
        return self.changes.with_steps(self.steps)


class DistillPair(RetrainPair):
    """Each half of a released pair teaches a student that needs few steps; the students pass the same gate."""

    verb: ClassVar[str] = "distill"
    shown: ClassVar[tuple[str, ...]] = (CARD_NAME, "teacher", "student_steps", "steps")

    teacher: Source = Field(
        "models:/pangu-pair@champion",
        title="Teacher",
        description="The pair that is distilled: a release, `embedded` or a folder; the recipe is that of its networks; "
        "empty: the champion",
    )
    student_steps: int = Field(
        2,
        ge=1,
        le=50,
        title="Sampling steps of a student, number",
        description="So many each half is taught to need; empty: 2",
    )
