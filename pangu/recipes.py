"""The recipes: functions that return a complete configuration. Measured costs and results stand beside each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pangu.config import (
    AutoencoderSource,
    DenoiserConfig,
    Distillation,
    EdgeControl,
    Execution,
    Gate,
    InitialWeights,
    LoraConfig,
    NoiseSchedule,
    Optimization,
    Recipe,
    Rehearsal,
    Role,
    RoleTraining,
    Sampling,
    Strategy,
    TextEncoderSource,
    Watching,
)
from pangu.config.denoiser_shapes import SanaShape
from pangu.errors import UserError
from pangu.sentences import TEMPLATES

SMALL = DenoiserConfig(block_out_channels=(32, 56, 72), norm_num_groups=8)
"""1.87 M parameters: what the starter pair is made of."""


def tiny() -> Recipe:
    """For tests: seconds on one core, images of no use, so that its gate has no floor."""
    return Recipe(
        name="tiny",
        max_tokens=16,
        denoiser=DenoiserConfig(
            block_out_channels=(16, 32),
            attention=(False, True),
            transformer_layers_per_block=(1, 1),
            attention_head_dim=16,
            norm_num_groups=8,
            preset_embed_dim=8,
        ),
        schedule=NoiseSchedule(prediction_type="v_prediction"),
        jobs={
            "structure": RoleTraining(resolution=96, steps=4, batch_size=4),
            "texture": RoleTraining(resolution=64, crop_from=96, rows="originals", steps=4, batch_size=4),
        },
        optimization=Optimization(warmup_steps=1, checkpoint_every=2, log_every=1),
        sampling=Sampling(num_inference_steps=4),
        gate=Gate(floor="none"),
    )


SMALL_UNET = (
    "to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2",
)  # fmt: skip
"""Layers of the starter pair's networks that adapters take: the attention alone does not learn a shape that it never saw."""
ON_A_CORE = Execution(prefetch=0)
"""A thread that draws ahead would take from the steps more of Python's lock than it gives: 4 % of the images a second."""


def demo() -> Recipe:
    """For `make demo`: the embedded starter pair learns to draw in chalk, in minutes, one CPU core per generator."""
    return Recipe(
        name="demo",
        schedule=NoiseSchedule(prediction_type="v_prediction"),
        denoiser=SMALL,
        init_from=InitialWeights(source="embedded"),
        jobs={
            "structure": RoleTraining(resolution=96, steps=600, batch_size=32),
            "texture": RoleTraining(resolution=64, crop_from=96, rows="originals", steps=900, batch_size=32),
        },
        optimization=Optimization(lr_peak=6e-4, warmup_steps=50, ema_decays=(0.99,)),
        execution=ON_A_CORE,
        sampling=Sampling(num_inference_steps=20, guidance_scale=3.0, texture_guidance=1.5),  # as the embedded pair
        watching=Watching(sample_every=300),
    )


def few_pictures() -> Recipe:
    """From a few dozen pictures of a subject: an adapter (LoRA) on the embedded pair, which rehearses what it knows meanwhile.

    Six minutes on two free cores; benchmarks/own_subject.py measures it.
    """
    alike = demo()
    return alike.model_copy(
        update={
            "name": "few_pictures",
            "lora": LoraConfig(target_modules=SMALL_UNET),
            "rehearsal": Rehearsal(pictures=420),
            "caption_templates": TEMPLATES,
            "jobs": {
                role: job.model_copy(update={"steps": steps, "batch_size": 20})
                for (role, job), steps in zip(alike.jobs.items(), (1600, 700), strict=True)
            },
            "optimization": alike.optimization.model_copy(
                update={"lr_peak": 3e-3, "warmup_steps": 20, "template_share": 0.85, "keyword_share": 0.3}
            ),
        }
    )


def demo_flow() -> Recipe:
    """A pair of flow-matching transformers from random weights, at the counted training cost of `demo`'s UNets: 9.66e12.

    SANA, because it has no positions: windows look to the texture half as they do in the whole picture. 1.37 M parameters a
    generator. The boundary has the log-SNR that `demo`'s has. Too short for pictures: it learns layout and colours.
    """
    alike = demo()
    return Recipe(
        name="demo_flow",
        schedule=NoiseSchedule(prediction_type="flow_prediction"),
        boundary=618,
        denoiser=SanaShape(patch_size=2, num_layers=6, num_attention_heads=4, attention_head_dim=28),
        jobs={
            "structure": RoleTraining(resolution=96, steps=620, batch_size=32),
            "texture": RoleTraining(resolution=64, crop_from=96, rows="originals", steps=882, batch_size=32),
        },
        optimization=alike.optimization.model_copy(update={"lr_peak": 1e-3}),
        execution=alike.execution,
        sampling=alike.sampling.model_copy(update={"texture_guidance": None}),
        watching=alike.watching,
    )


def starter() -> Recipe:
    """A pair like the embedded one, from random weights on all of OpenMoji (`datasets/openmoji_all.yaml`); hours on two cores.

    1.87 M parameters a generator; 240 images/s (structure) and 435 images/s (texture) on a free core. Of 400 captions trained
    95 % find their drawing first among 400, of 213 combinations never trained 98 % theirs among 213; 9,000 and 13,000
    more steps with `start_from: embedded` and `lr_peak: 1e-3` made the embedded pair, 96 % and 98 %.
    """
    return Recipe(
        name="starter",
        schedule=NoiseSchedule(prediction_type="v_prediction"),
        denoiser=SMALL,
        jobs={
            "structure": RoleTraining(resolution=96, steps=20_000, batch_size=32),
            "texture": RoleTraining(resolution=64, crop_from=96, rows="originals", steps=28_000, batch_size=32),
        },
        optimization=Optimization(
            lr_peak=2e-3, warmup_steps=200, ema_decays=(0.999,), checkpoint_every=500, log_every=100
        ),
        execution=ON_A_CORE,
        sampling=Sampling(num_inference_steps=20, guidance_scale=3.0),
    )


def time_decoupling() -> Recipe:
    """A small pair from random weights, to be compared with `resolution_boost` and `cascaded` (PanGu-Draw, Section 3.2).

    96 px stand for the paper's 1024, 48 px for its 512 and 24 px for its 256; `docs/log.md` has the comparison. Texture sees
    windows of 64 px, since those of 48 px, 6 x 6 latents, taught it rough colour. Fewer steps than the baselines' 2400: each
    generator meets its own timesteps twice as often.
    """
    return _compared(
        "time_decoupling",
        {
            "structure": RoleTraining(resolution=96, steps=1900, batch_size=16),
            "texture": RoleTraining(resolution=64, crop_from=96, rows="originals", steps=2100, batch_size=16),
        },
    )


def resolution_boost() -> Recipe:
    """A baseline: one generator of twice the size, first on small pictures of large originals, then on large ones."""
    steps, originals = 2400, {"rows": "originals", "min_original_side": 64}
    return _compared(
        "resolution_boost",
        {
            "boost_low": RoleTraining(resolution=48, steps=steps, batch_size=16, **originals),
            "boost_high": RoleTraining(
                resolution=96, steps=steps, batch_size=16, init_from_role="boost_low", **originals
            ),
        },
    )


def cascaded() -> Recipe:
    """A baseline: three generators of twice the size in turn, each conditioned on the picture of the one before."""
    steps, originals = 2400, {"rows": "originals", "min_original_side": 64}
    return _compared(
        "cascaded",
        {
            "cascade_base": RoleTraining(resolution=24, steps=steps, batch_size=16),
            "cascade_middle": RoleTraining(resolution=48, lower_side=24, steps=steps, batch_size=16, **originals),
            "cascade_final": RoleTraining(resolution=96, lower_side=48, steps=steps, batch_size=16, **originals),
        },
    )


def _compared(strategy: Strategy, jobs: dict[Role, RoleTraining]) -> Recipe:
    """What the three strategies share; a generator of a pair has half the parameters and half the cost of a baseline's."""
    width = (32, 56, 72) if strategy == "time_decoupling" else (48, 80, 104)
    return Recipe(
        name=strategy,
        strategy=strategy,
        schedule=NoiseSchedule(prediction_type="v_prediction"),
        denoiser=DenoiserConfig(block_out_channels=width, norm_num_groups=4),
        jobs=jobs,
        optimization=Optimization(lr_peak=2e-3),
        sampling=Sampling(num_inference_steps=20, guidance_scale=3.0),
    )


def single() -> Recipe:
    """One generator for all timesteps: a plain baseline, or a partner of Coop-Diffusion in a latent space of its own."""
    return Recipe(
        name="single",
        strategy="single",
        schedule=NoiseSchedule(prediction_type="v_prediction"),
        denoiser=SMALL,
        jobs={"single": RoleTraining(resolution=48, steps=8000, batch_size=32)},
        optimization=Optimization(
            lr_peak=2e-3, warmup_steps=200, ema_decays=(0.999,), checkpoint_every=500, log_every=100
        ),
        sampling=Sampling(num_inference_steps=20, guidance_scale=3.0),
        watching=Watching(sample_every=500),
    )


def edge_control() -> Recipe:
    """A ControlNet for edges on a trained generator, whose folder `init_from` names (arXiv 2302.05543)."""
    alone = single()
    return alone.model_copy(
        update={
            "name": "edge_control",
            "strategy": "control",
            "init_from": InitialWeights(source="single-generator"),
            "jobs": {"control": RoleTraining(resolution=48, steps=2000, batch_size=32, control=EdgeControl())},
            "optimization": alone.optimization.model_copy(
                update={"lr_peak": 1e-3, "warmup_steps": 100, "ema_decays": (0.99,), "caption_dropout": 0.5}
            ),
        }
    )


def sdxl_half() -> Recipe:
    """Two generators of half SDXL's UNet each, for one device per replica.

    1.25 B parameters: 0.49 of those of `pangu_draw_5b`, and as little of its operations (a quarter of the transformer layers
    alone would leave 0.63, for half of the operations are in convolutions of full width). At 512 px the texture half has room on
    a card of 80 GB without recomputing activations: 53 GiB by prediction, with 16 images at once.
    """
    return _published(
        "sdxl_half",
        DenoiserConfig(
            block_out_channels=(256, 512, 1024),
            layers_per_block=2,
            attention=(False, True, True),
            transformer_layers_per_block=(1, 1, 7),
            attention_head_dim=64,
            preset_embed_dim=256,
        ),
        texture={"gradient_checkpointing": False, "accumulate": 2},
    )


def pangu_draw_5b() -> Recipe:
    """The paper's scale: two SDXL-shaped generators, 5 B parameters in all (PanGu-Draw, Section 4).

    A half is predicted to take 67 of a card's 80 GB at 1024 px, 4 images at once (docs/performance.md).
    """
    return _published(
        "pangu_draw_5b",
        DenoiserConfig(
            block_out_channels=(320, 640, 1280),
            layers_per_block=2,
            attention=(False, True, True),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=64,
            preset_embed_dim=256,
        ),
        accumulate=4,
    )


SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
CHINESE_CLIP = TextEncoderSource(source="OFA-Sys/chinese-clip-vit-large-patch14", hidden_layer=-1)
OPENCLIP_BIGG = TextEncoderSource(
    source=SDXL, subfolder="text_encoder_2", tokenizer_subfolder="tokenizer_2", hidden_layer=-2
)


def _published(
    name: str, denoiser: DenoiserConfig, accumulate: int = 1, texture: dict[str, Any] | None = None
) -> Recipe:
    """What the paper's models share: SDXL's autoencoder, 768 Chinese + 1280 English channels, 1024 px over 512 px.

    texture: switches of `Execution` in which the texture job differs.
    """
    execution = Execution(
        precision="bf16", accumulate=accumulate, gradient_checkpointing=True, compile=True, background_checkpoints=True
    )
    return Recipe(
        name=name,
        schedule=NoiseSchedule(prediction_type="epsilon"),
        boundary=500,
        autoencoder=AutoencoderSource(source=SDXL, subfolder="vae"),
        text_encoders=(CHINESE_CLIP, OPENCLIP_BIGG),
        max_tokens=77,
        denoiser=denoiser,
        jobs={
            "structure": RoleTraining(resolution=1024, presets="published", steps=200_000, batch_size=1024),
            "texture": RoleTraining(
                resolution=512,
                presets="published",
                crop_from=1024,
                rows="originals",
                steps=200_000,
                batch_size=2048,
                execution=execution.model_copy(update=texture) if texture else None,
            ),
        },
        optimization=Optimization(
            lr_peak=1e-4, warmup_steps=1000, ema_decays=(0.9999, 0.999), checkpoint_every=1000, log_every=50
        ),
        execution=execution,
        sampling=Sampling(num_inference_steps=40, guidance_scale=7.5),
        workers=64,
    )


def student_of(recipe: Recipe, teacher: str, steps: int = 2) -> Recipe:
    """The recipe of a pair made one in which each half is distilled from its own half of `teacher`, alone, to `steps` steps.

    teacher: what `init_from` takes. The guidance that the pair draws with is built in.

    Raises:
        UserError: the recipe trains no pair.
    """
    if recipe.strategy != "time_decoupling":
        raise UserError(
            f"Recipe '{recipe.name}' trains no pair, so there are no halves to distill; choose another one."
        )
    settings = Distillation(steps=steps, guidance_scale=max(recipe.sampling.guidance_scale, 1.0))
    gentle = {"lr_peak": recipe.optimization.lr_peak / 2, "caption_dropout": 0.0}  # nobody asks it without a caption
    return recipe.model_copy(
        update={
            "name": f"{recipe.name}_student",
            "init_from": InitialWeights(source=teacher),
            "jobs": {role: job.model_copy(update={"distillation": settings}) for role, job in recipe.jobs.items()},
            "optimization": recipe.optimization.model_copy(update=gentle),
            "watching": recipe.watching.model_copy(update={"held_out_every": 0}),
        }
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "tiny": tiny,
    "demo": demo,
    "few_pictures": few_pictures,
    "demo_flow": demo_flow,
    "starter": starter,
    "time_decoupling": time_decoupling,
    "resolution_boost": resolution_boost,
    "cascaded": cascaded,
    "single": single,
    "edge_control": edge_control,
    "sdxl_half": sdxl_half,
    "pangu_draw_5b": pangu_draw_5b,
}


FILES = (".json", ".yaml", ".yml")


def recipe(name: str) -> Recipe:
    """The recipe called `name`, or the one in a JSON or YAML file of that path, as `pangu recipes NAME` prints them.

    Raises:
        UserError: no recipe has that name, or the file holds none.
    """
    if name.endswith(FILES):
        return _read(Path(name))
    if name not in RECIPES:
        known = ", ".join(sorted(RECIPES))
        raise UserError(f"Unknown recipe '{name}'; known recipes are {known}, or give a .json or .yaml file.")
    return RECIPES[name]()


def _read(path: Path) -> Recipe:
    try:
        return Recipe.model_validate(yaml.safe_load(path.read_text()))  # JSON is YAML
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"There is no recipe at {path}: {str(error).splitlines()[0]}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path} holds no recipe: {where or 'the whole'}: {first['msg']}.") from error
