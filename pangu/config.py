"""The configuration tree: one frozen `Recipe` says everything about a run.

YAML files, Prefect forms, MLflow parameters and Serve arguments are views of it. This module knows nothing of torch,
Ray, MLflow or Prefect.
"""

import hashlib
import json
import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pangu.templates import Language, check

Role = Literal[
    "structure", "texture", "boost_low", "boost_high", "cascade_base", "cascade_middle", "cascade_final", "single", "control"
]  # fmt: skip
ROLES: tuple[Role, Role] = ("structure", "texture")
"""The roles of a pair."""

Strategy = Literal["time_decoupling", "resolution_boost", "cascaded", "single", "control"]
STRATEGY_ROLES: dict[Strategy, tuple[Role, ...]] = {
    "time_decoupling": ROLES,
    "resolution_boost": ("boost_low", "boost_high"),
    "cascaded": ("cascade_base", "cascade_middle", "cascade_final"),
    "single": ("single",),
    "control": ("control",),
}
"""What each strategy trains (PanGu-Draw, Section 3.2); the two of a pair are independent, those of a baseline go in turn.

`single` is one generator for all timesteps, such as a partner of Coop-Diffusion; `control` a ControlNet on a given generator.
"""


class Frozen(BaseModel):
    """An immutable node of the tree that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON: equal trees, equal digests."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


LEAST_NOISE, LEAST_SIGNAL = 2**-21, 1e-30
"""Of beta at any timestep and of alpha_bar at the last: what float32 tells from nothing, and divides by the root of."""


class NoiseSchedule(Frozen):
    """The forward process of PanGu-Draw, Eq. 1, and what the network predicts."""

    num_train_timesteps: int = Field(1000, ge=2, description="T: number of discrete noise levels")
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    beta_start: float = Field(0.00085, gt=0, lt=1)
    beta_end: float = Field(0.012, gt=0, lt=1)
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    rescale_betas_zero_snr: bool = Field(
        False, description="Make the last step pure noise (arXiv 2305.08891); needs v_prediction"
    )

    def betas(self) -> list[float]:
        """Noise added at each timestep, before any rescaling, in double precision; `pangu.diffusion.noise` has the tensors."""
        total = self.num_train_timesteps
        if self.beta_schedule == "squaredcos_cap_v2":
            root = [math.cos((i / total + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(total + 1)]
            return [min(1 - root[i + 1] / root[i], 0.999) for i in range(total)]
        power = 1 if self.beta_schedule == "linear" else 2
        low, high = self.beta_start ** (1 / power), self.beta_end ** (1 / power)
        return [(low + (high - low) * i / (total - 1)) ** power for i in range(total)]

    def trouble(self) -> str:
        """Why nothing can be trained or drawn with these noise levels, in one sentence without its full stop, or ""."""
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            return (
                "schedule.rescale_betas_zero_snr makes the last timestep pure noise, from which a predicted noise "
                "(prediction_type: epsilon) tells nothing of the image; set prediction_type to v_prediction"
            )
        betas = self.betas()
        if min(betas) < LEAST_NOISE:
            return (
                f"schedule adds {min(betas):.3g} of noise at one of its timesteps, which float32 cannot tell from none; raise "
                f"beta_start or beta_end, or lower num_train_timesteps"
            )
        signal = math.exp(math.fsum(math.log1p(-beta) for beta in betas))
        if signal < LEAST_SIGNAL:
            return (
                f"schedule leaves alpha_bar = {signal:.3g} at the last timestep, too little for float32; lower beta_end or "
                f"num_train_timesteps"
            )
        return ""


class AutoencoderSource(Frozen):
    """Where the autoencoder comes from."""

    source: str = Field("embedded", description="'embedded', a local folder, or a hub id")
    subfolder: str | None = Field(None, description="Subfolder of a pipeline folder or hub repository, e.g. 'vae'")


class TextEncoderSource(Frozen):
    """One frozen text encoder and its tokenizer."""

    source: str = Field("embedded", description="'embedded', a local folder, or a hub id")
    subfolder: str | None = Field(None, description="Subfolder of the encoder, e.g. 'text_encoder'")
    tokenizer_subfolder: str | None = Field(None, description="Subfolder of the tokenizer, e.g. 'tokenizer'")
    hidden_layer: int = Field(
        -1,
        le=0,
        description="Which hidden state conditions the denoiser; SDXL uses -2, Stable Diffusion 0: the final output",
    )
    sees_padding: bool = Field(False, description="Attend to padding tokens too, as Stable Diffusion and SDXL do")


class InitialWeights(Frozen):
    """What the generators start from, instead of random weights."""

    source: str = Field(
        description="'embedded', a generator folder (both roles start from it), a pair folder (each role from its half), a "
        "diffusers pipeline or UNet folder, a hub id, or a registered pair such as models:/pangu-pair@champion",
    )
    subfolder: str | None = Field(None, description="Subfolder of the UNet, e.g. 'unet'")
    new_latents: bool = Field(
        False,
        exclude_if=lambda value: not value,
        description="Go over to another autoencoder: all but first and last layer is kept (arXiv 2403.04692, Section 3.3)",
    )


class EdgeControl(Frozen):
    """What a ControlNet is shown: the edges of the image, by OpenCV's Canny detector."""

    low_threshold: int = Field(100, ge=0, description="Gradients below this are no edge")
    high_threshold: int = Field(200, ge=1, description="Gradients above this are one; between, what touches one is too")

    @model_validator(mode="after")
    def _ordered(self) -> "EdgeControl":
        if self.low_threshold > self.high_threshold:
            raise ValueError("low_threshold must not be above high_threshold")
        return self


class LoraConfig(Frozen):
    """Low-rank adapters (arXiv 2106.09685) in the place of full weights."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(16.0, gt=0, description="The adapter's output is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] = Field(
        ("to_q", "to_k", "to_v", "to_out.0"), min_length=1, description="Which linear layers are adapted"
    )


class DenoiserConfig(Frozen):
    """The shape of one generator's UNet; channels and context sizes follow from autoencoder and text encoders."""

    block_out_channels: tuple[int, ...] = (96, 160, 224)
    layers_per_block: int = Field(1, ge=1)
    attention: tuple[bool, ...] = Field((False, True, True), description="Per level: cross-attention blocks or not")
    transformer_layers_per_block: tuple[int, ...] = (1, 1, 1)
    attention_head_dim: int = Field(32, ge=1, description="Channels of one attention head")
    norm_num_groups: int = Field(32, ge=1)
    preset_embed_dim: int = Field(32, ge=2, description="Size of the sinusoidal embedding of the preset index")

    @model_validator(mode="after")
    def _levels_agree(self) -> "DenoiserConfig":
        levels = len(self.block_out_channels)
        if not levels == len(self.attention) == len(self.transformer_layers_per_block):
            raise ValueError("block_out_channels, attention and transformer_layers_per_block need one entry per level")
        return self


Resolution = Annotated[int, Field(ge=8, description="Pixels per side of the square preset")]


class Execution(Frozen):
    """How the same numbers are computed: what fits a device, and how fast."""

    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: autocast around the forward pass")
    accumulate: int = Field(
        1, ge=1, description="Parts of a worker's share of the batch, one forward and backward each"
    )
    gradient_checkpointing: bool = Field(False, description="Recompute activations in the backward pass: less memory")
    channels_last: bool = Field(False, description="Memory layout that tensor cores like")
    compile: bool = Field(False, description="torch.compile each block of the denoiser; one graph per block and preset")
    background_checkpoints: bool = Field(
        False,
        exclude_if=lambda asked: not asked,
        description="Write checkpoints while training goes on, from copies that take their size in host memory",
    )
    # Left out where they are the usual ones, so that recipes are written as they were.
    ema_device: Literal["device", "host"] = Field(
        "device",
        exclude_if=lambda where: where == "device",
        description="Where the running means are: with the weights, or in the host's memory, rank 0's alone",
    )
    ema_every: int = Field(
        1,
        ge=1,
        exclude_if=lambda steps: steps == 1,
        description="Steps between two updates of the running means, each by the decays of all steps since the last",
    )
    moments: Literal["fp32", "bf16", "int8"] = Field(
        "fp32",
        exclude_if=lambda form: form == "fp32",
        description="The optimizer's two moments: bf16 with stochastic rounding, or 8 bits in blocks of 256: less memory",
    )
    prefetch: int = Field(2, ge=0, description="Batches drawn ahead by a background thread; 0 draws them in turn")
    latents: Literal["precomputed", "on_the_fly"] = Field(
        "precomputed", description="Encode once before training, or in the loop from the images"
    )


class RoleTraining(Frozen):
    """What differs between the training jobs of one recipe (PanGu-Draw, Section 3.2)."""

    resolution: Resolution
    presets: Literal["square", "published"] = Field(
        "square", description="One square bucket, or the paper's presets around `resolution` as buckets"
    )
    starved_presets: Literal["refuse", "nearest"] = Field(
        "refuse",
        description="Presets with fewer rows than a batch: refuse, or give their images the nearest shape that has enough",
    )
    rows: Literal["all", "originals"] = Field("all", description="Whether upscaled images are trained on")
    min_original_side: int = Field(
        0, ge=0, description="Smallest side of the original image, px; smaller ones are left out"
    )
    lower_side: Resolution | None = Field(
        None, description="Cascades: side of the generated image that this stage is conditioned on, px"
    )
    crop_from: Resolution | None = Field(
        None,
        description="Cut windows of `resolution` out of images of this size; None: the whole image at `resolution`",
    )
    steps: int = Field(ge=1, description="Optimizer steps")
    batch_size: int = Field(ge=1, description="Images per optimizer step, over all workers and accumulated parts")
    init_from_role: Role | None = Field(None, description="Go on from what this earlier job of the recipe trained")
    # Left out where there is none, so that the digests of recipes and encoded datasets without control stay what they were.
    control: EdgeControl | None = Field(
        None, exclude_if=lambda value: value is None, description="What the role `control` is shown of each image"
    )
    denoiser: DenoiserConfig | None = Field(
        None, exclude_if=lambda value: value is None, description="The shape of this generator; None: the recipe's"
    )
    execution: Execution | None = Field(
        None, exclude_if=lambda value: value is None, description="How this job computes; None: as the recipe says"
    )

    @property
    def encoded_side(self) -> int:
        """Pixels per side of the images that are encoded for this job."""
        return self.crop_from or self.resolution

    @model_validator(mode="after")
    def _windows_fit(self) -> "RoleTraining":
        if self.crop_from is not None and self.crop_from < self.resolution:
            raise ValueError("crop_from must not be smaller than resolution")
        return self


class Optimization(Frozen):
    """What is learnt and how fast; all training jobs share it."""

    lr_peak: float = Field(1e-3, gt=0, allow_inf_nan=False)
    lr_final: float = Field(1e-5, ge=0, allow_inf_nan=False)
    lr_schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="How the rate goes from lr_peak to lr_final after the warm-up"
    )
    lr_decay_share: float = Field(
        1.0, gt=0, le=1, description="Last share of the steps in which the rate falls; before that it stays at lr_peak"
    )
    warmup_steps: int = Field(50, ge=0)
    weight_decay: float = Field(0.01, ge=0, allow_inf_nan=False)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.99)
    grad_clip: float = Field(1.0, gt=0)
    max_skipped_steps: int = Field(
        5,
        ge=1,
        exclude_if=lambda value: value == 5,
        description="Steps in a row without a finite loss and gradient norm that stop the run; each of them is skipped",
    )
    ema_decays: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field(
        (0.995,), min_length=1, description="Running means of the weights; the first one is the exported generator"
    )
    min_snr_gamma: float | None = Field(
        None, gt=0, description="Weight timesteps by min(SNR, gamma) / SNR of the clean-data loss (arXiv 2303.09556)"
    )
    caption_dropout: float = Field(0.1, ge=0, le=1, description="Share of captions replaced by the empty one")
    zh_share: float = Field(0.5, ge=0, le=1, description="Share of Chinese captions")
    style_share: float = Field(
        0.5, ge=0, le=1, description="Share of styled rows whose caption carries the style's prefix"
    )
    # Left out where they are the usual ones, so that the digests of recipes stay what they were.
    template_share: float = Field(
        0.5,
        ge=0,
        le=1,
        exclude_if=lambda value: value == 0.5,
        description="Share of captions that are put into one of the recipe's `caption_templates`, if it has any",
    )
    keyword_share: float = Field(
        0.0,
        ge=0,
        le=1,
        exclude_if=lambda value: not value,
        description="Share of the captions of rows with keywords that give way to one of them",
    )
    checkpoint_every: int = Field(200, ge=1, description="Steps between checkpoints")
    log_every: int = Field(20, ge=1, description="Steps between log lines")


class Sampling(Frozen):
    """Defaults of the pipeline and of the served API."""

    num_inference_steps: int = Field(30, ge=1, le=1000)
    guidance_scale: float = Field(3.0, ge=0, le=50)


class Watching(Frozen):
    """What is shown while training runs, beside the log lines."""

    timestep_buckets: int = Field(4, ge=1, le=50, description="Equal parts of the interval whose loss is logged apart")
    sample_every: int = Field(0, ge=0, description="Steps between sample grids; 0: none")
    samples: int = Field(8, ge=1, le=64, description="Images in a sample grid")
    upload_to: str | None = Field(None, description="An fsspec URI; every checkpoint is copied there in the background")


class GateRule(Frozen):
    """What one measured number of a new pair must be before the pair is released."""

    metric: str = Field(
        min_length=1, description="A number of the evaluation; without _zh or _en it is asked of each language"
    )
    at_least: float | None = Field(None, description="Smallest value allowed, whatever the champion has")
    at_most: float | None = Field(None, description="Largest value allowed, whatever the champion has")
    against_champion: Literal["not_compared", "not_shown_worse", "not_inferior", "better"] = Field(
        "not_shown_worse",
        description="not_shown_worse: the interval of the difference is not wholly below -margin; not_inferior: it lies wholly "
        "above -margin; better: it lies wholly above +margin",
    )
    margin: float = Field(0.0, ge=0, description="Difference that does not matter, in the metric's unit")


class Gate(Frozen):
    """When a pair may take the champion's place: all rules hold on the same prompts, by a paired bootstrap."""

    rules: tuple[GateRule, ...] = (GateRule(metric="retrieval_similarity"),)
    floor: Literal["start", "none"] = Field(
        "start",
        exclude_if=lambda value: value == "start",
        description="What a first pair is compared with while there is no champion. start: what its training started from, and "
        "random weights must be shown to be worse; none: nothing, so any first pair passes",
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Of the interval of the mean difference per prompt")
    resamples: int = Field(2000, ge=100, le=100_000, description="Of the prompts, with replacement")


class Recipe(Frozen):
    """Everything about a run, from encoding to release."""

    name: str
    seed: int = Field(0, ge=0)
    strategy: Strategy = "time_decoupling"
    schedule: NoiseSchedule = NoiseSchedule()
    boundary: int = Field(500, description="T_struct: the structure generator owns t >= boundary, texture t < boundary")
    autoencoder: AutoencoderSource = AutoencoderSource()
    text_encoders: tuple[TextEncoderSource, ...] = (TextEncoderSource(),)
    max_tokens: int = Field(32, ge=2, description="Caption length in tokens, padded or cut")
    styles: dict[str, str] = Field(
        {}, description="Style of a row (e.g. aesthetic, cartoon, photo) -> the prefix of its captions"
    )
    caption_templates: dict[Language, tuple[str, ...]] = Field(
        {},
        exclude_if=lambda value: not value,
        description="Language -> sentences around a caption, e.g. 'a picture of {a}': {} is the caption as listed, {a} has its "
        "article, {plural} is plural, {turned} has its second half first; Chinese ones take {} only",
    )
    denoiser: DenoiserConfig = Field(DenoiserConfig(), description="The shape of generators whose job names none")
    init_from: InitialWeights | None = Field(None, description="None: random weights, the same for every role")
    lora: LoraConfig | None = Field(None, description="None: all weights are trained")
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
        if set(self.jobs) != set(STRATEGY_ROLES[self.strategy]):
            raise ValueError(f"jobs of {self.strategy} must be exactly {', '.join(STRATEGY_ROLES[self.strategy])}")
        if self.strategy == "time_decoupling":
            self._check_pair()
        if self.strategy == "control":
            self._check_control()
        if self.lora is not None and self.init_from is None:
            raise ValueError("lora adapts given weights: name them in init_from")
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers must not be above workers, which is {self.workers}")
        if not self.text_encoders:
            raise ValueError("text_encoders needs at least one entry")
        if any(self.execution_of(role).latents != self.execution.latents for role in self.jobs):
            raise ValueError("execution.latents belongs to the encoded dataset: it must be the same in every job")
        return self

    def _check_pair(self) -> None:
        if self.texture.resolution > self.structure.resolution:
            raise ValueError("texture must not train at a higher resolution than structure (PanGu-Draw, Section 3.2)")
        if self.texture.rows != "originals":
            raise ValueError("texture must train on originals only: upscaled images lack the detail that it learns")

    def _check_control(self) -> None:
        if self.init_from is None:
            raise ValueError("a ControlNet controls a given generator: name it in init_from")
        if self.lora is not None:
            raise ValueError("a ControlNet is trained whole: leave out lora")
        if self.jobs["control"].control is None:
            raise ValueError("jobs.control.control must say what the ControlNet is shown, e.g. {} for edges")

    @property
    def rewords(self) -> bool:
        """Whether training shows captions in other words than the dataset lists, too many for all to be embedded beforehand."""
        put_into_templates = any(self.caption_templates.values()) and self.optimization.template_share > 0
        return put_into_templates or self.optimization.keyword_share > 0

    @property
    def structure(self) -> RoleTraining:
        return self.jobs["structure"]

    @property
    def texture(self) -> RoleTraining:
        return self.jobs["texture"]

    def training(self, role: Role) -> RoleTraining:
        return self.jobs[role]

    def denoiser_of(self, role: Role) -> DenoiserConfig:
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
        """The roles of the strategy, in the order in which baselines train them."""
        return STRATEGY_ROLES[self.strategy]
