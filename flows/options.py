"""Groups of fields that several forms share: how a pair is measured, where rows are made, who computes."""

from typing import Literal

from pydantic import Field

from flows.form import Form


class EvaluationOptions(Form):
    """How the pair is measured."""

    prompts: int = Field(
        24,
        ge=1,
        le=1_000_000,
        title="Captions to draw, number",
        description="At most so many of each language and split; empty: 24",
    )
    split: Literal["automatic", "train", "held_out"] = Field(
        "automatic",
        title="Rows that are measured on",
        description="Rows that distances and CLIP scores are measured on; automatic: held-out ones where there are any",
    )
    metrics: Literal[
        "automatic", "retrieval", "retrieval,outside", "retrieval,fid,kid", "retrieval,fid,kid,loss", "retrieval,loss"
    ] = Field(
        "automatic",
        title="What is measured",
        description="What is measured; automatic: retrieval, styles where there are any, and whatever the networks named below "
        "are for",
    )
    inception: str = Field(
        "", max_length=1000, title="Inception network", description="TorchScript Inception network for FID, KID and IS"
    )
    clip: str = Field("", max_length=1000, title="CLIP model", description="CLIP model, a folder or a hub id")
    cn_clip: str = Field(
        "", max_length=1000, title="Chinese CLIP model", description="Chinese CLIP model, a folder or a hub id"
    )

    matrix: bool = Field(
        False,
        title="Each half with each",
        description="Also draw the new halves with the champion's, to see which half became better (twice the time)",
    )
    templates: str = Field(
        "",
        max_length=1000,
        title="Templates of captions",
        description="File of templates that captions are also drawn in, or untrained: those that judge the embedded pair",
    )
    keywords: bool = Field(False, title="Keywords, too", description="Also draw rows by one of their keywords")

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


class FurtherDataset(Form):
    """A dataset that is trained on beside that of the card."""

    dataset: str = Field(
        max_length=64,
        pattern=r"^[a-z0-9][a-z0-9_-]*$",
        title="Dataset",
        description="Its name; a version of it is there already, its card need not be",
    )
    version: int | None = Field(
        None, ge=0, title="Dataset version", description="Number of a version of it; empty: the newest"
    )
    weight: float = Field(
        1.0,
        gt=0,
        le=10_000,
        title="Weight",
        description="How often each of its rows appears in an epoch: 2 is twice, 0.25 a quarter of them; empty: 1",
    )


class Preparing(Form):
    """Where rows are made; it changes how long that takes, not what comes out."""

    workers: int = Field(
        1,
        ge=1,
        le=100_000,
        title="Processes that make rows, number",
        description="Each has a core of its own; empty: 1",
    )
    every_node: bool = Field(
        False,
        title="On every node",
        description="Make rows in actors of the Ray cluster, on any of its nodes, instead of on one machine",
    )

    @property
    def arguments(self) -> list[str]:
        """The options of `pangu prepare`."""
        return ["--workers", str(self.workers), *(["--on-ray"] if self.every_node else [])]


class Devices(Form):
    """Who encodes and draws; it changes how long that takes, not what comes out."""

    workers: int | None = Field(
        None,
        ge=1,
        le=100_000,
        title="Workers, number",
        description="How many compute; empty: as many as the cluster's GPUs carry, or one without any",
    )
    gpus: float = Field(
        1.0,
        gt=0,
        le=64,
        title="GPUs of a worker, number",
        description="Where there are any; 0.5: two workers share one; empty: 1",
    )

    @property
    def arguments(self) -> list[str]:
        """The options of `pangu encode`, `pangu evaluate` and `pangu pair-matrix`."""
        workers = [] if self.workers is None else ["--workers", str(self.workers)]
        return ["--on-ray", *workers, "--gpus", f"{self.gpus:g}"]
