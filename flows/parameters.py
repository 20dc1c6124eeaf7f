"""The forms of the dashboard: what a person may choose for each flow, with bounds and explanations.

The dashboard draws them from the JSON schema; Python validators would not run there.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

RecipeName = Literal["demo", "starter", "tiny", "time_decoupling", "sdxl_half", "pangu_draw_5b"]
"""Each is a function of `pangu.recipes` that trains a pair; a test compares."""


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
    Field(description="The recipe: network sizes, steps, noise schedule, sampling", json_schema_extra=_at(1)),
]
Identifier = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9._-]+$")]
Folder = Annotated[str, Field(min_length=1, max_length=1000)]


class Form(BaseModel):
    """A flow's parameters."""

    model_config = ConfigDict(extra="forbid")


class IngestImages(Form):
    """Download the images of a card's URL table."""

    card: Card = "openmoji"


class PrepareDataset(Form):
    """Turn downloaded images into one version of the dataset table."""

    card: Card = "openmoji"
    ingest_id: Identifier = Field(description="The id that ingest-images reported", json_schema_extra=_at(1))


class TrainGenerators(Form):
    """Encode one version of a dataset and train both generators on it, at the same time."""

    card: Card = "openmoji"
    recipe: Recipe = "demo"
    version: int = Field(ge=0, description="Version of the dataset table", json_schema_extra=_at(2))


class EvaluatePair(Form):
    """Measure a pair of generators by the evaluation protocol."""

    card: Card = "openmoji"
    recipe: Recipe = "demo"
    encode_id: Identifier = Field(description="The id that encoding reported", json_schema_extra=_at(2))
    structure: Folder = Field(description="Folder of the structure generator", json_schema_extra=_at(3))
    texture: Folder = Field(description="Folder of the texture generator", json_schema_extra=_at(4))


class ReleasePair(Form):
    """Register a pair, point the alias `champion` to it, and serve it."""

    pair: Folder = Field(description="Folder of the pair", json_schema_extra=_at(0))
    structure: Folder = Field(description="Folder of the structure generator", json_schema_extra=_at(1))
    texture: Folder = Field(description="Folder of the texture generator", json_schema_extra=_at(2))
    metrics: Folder = Field(description="File with the outcome of the evaluation, as JSON", json_schema_extra=_at(3))
    deploy: bool = Field(True, description="Also serve the pair when it is released", json_schema_extra=_at(4))


class RetrainPair(Form):
    """From a card to a served pair: ingest, prepare, encode, train, evaluate, release, deploy."""

    card: Card = "openmoji"
    recipe: Recipe = "demo"
    deploy: bool = Field(True, description="Also serve the pair when it is released", json_schema_extra=_at(2))
