"""One recipe says everything about a run."""

import hashlib
import json
from itertools import pairwise
from typing import Any

from pydantic import Field, model_validator

from pangu.config.denoiser_shapes import AnyDenoiser, DenoiserConfig, DenoiserShape
from pangu.config.execution import Execution
from pangu.config.mixture import Mixture
from pangu.config.network_shape import LoraConfig
from pangu.config.noise_schedule import NoiseSchedule
from pangu.config.rehearsal import Rehearsal
from pangu.config.release_rules import Gate
from pangu.config.role_training import Optimization, RoleTraining
from pangu.config.tree import MIDDLE_ROLES, ROLES, STRATEGY_ROLES, Frozen, Role, Strategy
from pangu.config.watching import Sampling, Watching
from pangu.config.weight_sources import AutoencoderSource, InitialWeights, TextEncoderSource
from pangu.templates import Language, check


class Recipe(Frozen):
    """Everything about a run, from encoding to release."""

    name: str
    seed: int = Field(0, ge=0)
    strategy: Strategy = "time_decoupling"
    schedule: NoiseSchedule = NoiseSchedule()
    boundary: int = Field(500, description="T_struct: the structure generator owns t >= boundary, texture t < boundary")
    further_boundaries: tuple[int, ...] = Field(
        (),
        max_length=len(MIDDLE_ROLES),
        exclude_if=lambda value: not value,
        description="Below `boundary`, falling: more experts take turns, each with a job: middle, middle_2, ... before texture",
    )
    autoencoder: AutoencoderSource = AutoencoderSource()
    text_encoders: tuple[TextEncoderSource, ...] = (TextEncoderSource(),)
    max_tokens: int = Field(32, ge=2, description="Caption length in tokens, padded or cut")
    placeholder_tokens: tuple[str, ...] = Field(
        (),
        exclude_if=lambda words: not words,
        description="Words, most likely the name of a new subject, that get a token of their own in each text encoder to which "
        "they are several tokens, so that they are one thing in every sentence",
    )
    styles: dict[str, str] = Field(
        {}, description="Style of a row (e.g. aesthetic, cartoon, photo) -> the prefix of its captions"
    )
    caption_templates: dict[Language, tuple[str, ...]] = Field(
        {},
        exclude_if=lambda value: not value,
        description="Language -> sentences around a caption, e.g. 'a picture of {a}': {} is the caption as listed, {a} has its "
        "article, {plural} is plural, {turned} has its second half first; Chinese ones take {} only",
    )
    denoiser: AnyDenoiser = Field(DenoiserConfig(), description="The shape of generators whose job names none")
    init_from: InitialWeights | None = Field(None, description="None: random weights, the same for every role")
    lora: LoraConfig | None = Field(None, description="None: all weights are trained")
    # Left out where it is one dataset, so that the digests of recipes and the names of runs stay what they were.
    mixture: Mixture = Field(
        Mixture(),
        exclude_if=lambda mixture: mixture.is_plain,
        description="Datasets that are trained on beside the one that a training is told, and the weight of each",
    )
    rehearsal: Rehearsal | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="What the start draws of what it knows, to be trained on beside the dataset; None: nothing",
    )
    jobs: dict[Role, RoleTraining] = Field(description="One training job per role of the strategy")
    optimization: Optimization = Optimization()
    execution: Execution = Execution()
    sampling: Sampling = Sampling()
    watching: Watching = Watching()
    # Left out where it is the usual one, so that the digests of recipes stay what they were.
    gate: Gate = Field(Gate(), exclude_if=lambda gate: gate == Gate())
    workers: int = Field(1, ge=1, description="Data-parallel workers of each training job")
    min_workers: int | None = Field(
        None, ge=1, description="An attempt may start with as few workers as this; None: with all or not at all"
    )

    @model_validator(mode="after")
    def _intervals_make_sense(self) -> "Recipe":
        if trouble := self.schedule.trouble():
            raise ValueError(trouble)
        check(self.caption_templates)
        if not 0 < self.boundary < self.schedule.num_train_timesteps:
            raise ValueError(f"boundary must lie strictly between 0 and T={self.schedule.num_train_timesteps}")
        ends = (self.boundary, *self.further_boundaries, 0)
        if any(low >= high for high, low in pairwise(ends)):
            raise ValueError(f"further_boundaries must fall from boundary to 0, not {', '.join(map(str, ends[1:-1]))}")
        if self.further_boundaries and self.strategy != "time_decoupling":
            raise ValueError(f"further_boundaries belong to time_decoupling; leave them out for {self.strategy}")
        if set(self.jobs) != set(self.roles):
            raise ValueError(f"jobs of {self.strategy} must be exactly {', '.join(self.roles)}")
        if self.strategy == "time_decoupling":
            self._check_density()
            self._check_pair()
        if self.strategy == "control":
            self._check_control()
        if self.strategy in ("cascaded", "control"):
            self._check_images_are_seen()
        if self.watching.held_out_every and self.strategy in ("cascaded", "control"):
            raise ValueError(
                f"watching.held_out_every measures what sees noise and text alone; leave it out for {self.strategy}"
            )
        self._check_distillation()
        if self.lora is not None and self.init_from is None:
            raise ValueError("lora adapts given weights: name them in init_from")
        if self.rehearsal is not None and (self.init_from is None or self.strategy != "time_decoupling"):
            raise ValueError(
                "rehearsal lets the pair draw that training starts from: name it in init_from, of time_decoupling"
            )
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers must not be above workers, which is {self.workers}")
        if any(word != word.strip() or not word for word in self.placeholder_tokens):
            raise ValueError("placeholder_tokens are words, without blanks around them")
        if not self.text_encoders:
            raise ValueError("text_encoders needs at least one entry")
        if any(self.execution_of(role).latents != self.execution.latents for role in self.jobs):
            raise ValueError("execution.latents belongs to the encoded dataset: it must be the same in every job")
        return self

    def _check_density(self) -> None:
        """Boundaries must leave each side some of the timesteps; a dynamic shift is not known before the shapes are."""
        total = self.schedule.num_train_timesteps
        density = self.optimization.density(total, self.schedule.shift)
        ends = (total, self.boundary, *self.further_boundaries, 0)
        trouble = next(filter(None, (density.trouble(low, high) for high, low in pairwise(ends))), None)
        if trouble and not self.schedule.use_dynamic_shifting:
            raise ValueError(trouble)

    def _check_pair(self) -> None:
        if self.texture.resolution > self.structure.resolution:
            raise ValueError("texture must not train at a higher resolution than structure (PanGu-Draw, Section 3.2)")
        if self.texture.rows != "originals":
            raise ValueError("texture must train on originals only: upscaled images lack the detail that it learns")

    def _check_distillation(self) -> None:
        if not any(job.distillation for job in self.jobs.values()):
            return
        if self.strategy != "time_decoupling":
            raise ValueError("distillation cuts the interval of an expert: it belongs to time_decoupling")
        if self.init_from is None:
            raise ValueError("distillation needs a teacher: name it in init_from")
        if self.watching.held_out_every:
            raise ValueError(
                "watching.held_out_every measures predictions, which a distilled half no longer makes; leave it out"
            )

    def _check_control(self) -> None:
        if self.init_from is None:
            raise ValueError("a ControlNet controls a given generator: name it in init_from")
        if self.lora is not None:
            raise ValueError("a ControlNet is trained whole: leave out lora")
        if self.jobs["control"].control is None:
            raise ValueError("jobs.control.control must say what the ControlNet is shown, e.g. {} for edges")

    def _check_images_are_seen(self) -> None:
        for role in self.jobs:
            if not self.denoiser_of(role).sees_images:
                raise ValueError(
                    f"{self.strategy} conditions its networks on an image, which the denoiser family "
                    f"{self.denoiser_of(role).family} has no place for; use unet"
                )

    @property
    def rewords(self) -> bool:
        """Whether training shows captions in other words than the dataset lists, too many for all to be embedded beforehand."""
        put_into_templates = any(self.caption_templates.values()) and self.optimization.template_share > 0
        optimization = self.optimization
        return put_into_templates or optimization.keyword_share > 0 or optimization.long_caption_share is not None

    @property
    def structure(self) -> RoleTraining:
        return self.jobs["structure"]

    @property
    def texture(self) -> RoleTraining:
        return self.jobs["texture"]

    def training(self, role: Role) -> RoleTraining:
        return self.jobs[role]

    def denoiser_of(self, role: Role) -> DenoiserShape:
        """The shape of one generator: generators of a pair share latents and text, and may be of different sizes."""
        job = self.jobs.get(role)
        return self.denoiser if job is None or job.denoiser is None else job.denoiser

    def execution_of(self, role: Role) -> Execution:
        """How one job computes: the halves differ in resolution, and so in what fits a device."""
        job = self.jobs.get(role)
        return self.execution if job is None or job.execution is None else job.execution

    def learning_fields(self) -> dict[str, Any]:
        """What decides what is learnt: not how many workers do it, how they compute, or what they show."""
        same = {"log_every": 1, "checkpoint_every": 1, "max_skipped_steps": 5}
        jobs = {role: job.model_copy(update={"execution": None}) for role, job in self.jobs.items()}
        changes = {"optimization": self.optimization.model_copy(update=same), "jobs": jobs, "name": ""}
        kept = self.model_copy(update=changes)
        return kept.model_dump(
            mode="json", exclude={"workers", "min_workers", "execution", "watching", "sampling", "gate"}
        )

    def learning_digest(self) -> str:
        """Digest of `learning_fields`. A run may go on under another recipe with the same learning digest."""
        text = json.dumps(self.learning_fields(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles of the strategy, in the order in which baselines train them and experts take turns."""
        if self.further_boundaries:
            return (ROLES[0], *MIDDLE_ROLES[: len(self.further_boundaries)], ROLES[1])
        return STRATEGY_ROLES[self.strategy]
