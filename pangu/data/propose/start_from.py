"""Which recipe a dataset is trained with at first, and what it starts from: from the number of its pictures and the device.

The rules are rules of thumb, of which one is measured (`few_pictures`, by benchmarks/own_subject.py): an adapter on the embedded
pair for a few dozen pictures, that pair for lists that teach it something of their own, nothing for lists that could teach a pair
everything, and an adapter (LoRA) on any larger model that the user names.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pangu.config import (
    AutoencoderSource,
    Execution,
    InitialWeights,
    LoraConfig,
    NoiseSchedule,
    Optimization,
    Recipe,
    RoleTraining,
    Sampling,
    TextEncoderSource,
)
from pangu.errors import UserError
from pangu.models.sources import locate, read_config
from pangu.recipes import recipe

EMBEDDED, NOTHING = "embedded", "nothing"
SUBJECT = 40
"""Fewer pictures than this are one subject or one look."""
FROM_NOTHING = 100_000
"""Pictures from which on a pair is proposed that starts from random weights."""
LARGE_MODEL_GIB = 60
"""Of a GPU for `sdxl_half`, whose larger job is predicted to take 53 (docs/performance.md)."""


@dataclass(frozen=True)
class ProposedStart:
    """A recipe and its start.

    name: of the recipe as it is known. start: "embedded", "nothing" or a model. why: in one clause.
    """

    recipe: Recipe
    name: str
    start: str
    why: str

    @property
    def texture_min_side(self) -> int:
        """Images at least this large train the texture generator, px."""
        return self.recipe.texture.resolution

    @property
    def target_side(self) -> int:
        """Of the images that the structure generator sees, px."""
        return self.recipe.structure.encoded_side


def propose_start(asked: str | None, pictures: int, large: int, gpu_gib: float | None) -> ProposedStart:
    """What to start from.

    asked: "embedded", "nothing", a folder or a hub id, or None where the user leaves it open. pictures: that can be used. large:
    those of at least 512 px. gpu_gib: memory of the GPU; None without one.

    Raises:
        UserError: the model is not there, or is none that a UNet can be started from.
    """
    here = "this machine has no GPU" if gpu_gib is None else f"this machine has a GPU of {gpu_gib:.0f} GiB"
    if asked not in (None, EMBEDDED, NOTHING):
        made = adapter_recipe(str(asked), on_gpu=gpu_gib is not None)
        slow = "; without a GPU a step of a model of SDXL's size takes minutes" if gpu_gib is None else ""
        return ProposedStart(made, "", str(asked), f"you named it, and an adapter leaves what it knows as it is{slow}")
    if asked == EMBEDDED or (asked is None and pictures < FROM_NOTHING):
        few = f"so few pictures cannot teach everything, and {here}"
        if pictures < SUBJECT:
            few = "so few pictures teach an adapter (LoRA) a subject or a look, and the pair keeps what it knows"
            return ProposedStart(recipe("few_pictures"), "", EMBEDDED, few if asked is None else "you asked for it")
        return ProposedStart(recipe("demo"), "demo", EMBEDDED, few if asked is None else "you asked for it")
    if gpu_gib is not None and gpu_gib >= LARGE_MODEL_GIB and large >= FROM_NOTHING:
        return ProposedStart(
            recipe("sdxl_half"), "sdxl_half", NOTHING, f"so many large pictures are enough to learn from, and {here}"
        )
    why = "you asked for it" if asked == NOTHING else f"so many pictures are enough to learn from, and {here}"
    return ProposedStart(recipe("starter"), "starter", NOTHING, why)


def fitted(start: ProposedStart, name: str, pictures: int, large: int) -> ProposedStart:
    """The same with batches that are no larger than the rows of each job; a recipe that changes by it is called `name`."""
    jobs = {
        role: job.model_copy(update={"batch_size": min(job.batch_size, large if job.rows == "originals" else pictures)})
        for role, job in start.recipe.jobs.items()
    }
    if start.name and jobs == start.recipe.jobs:
        return start
    return ProposedStart(start.recipe.model_copy(update={"name": name, "jobs": jobs}), "", start.start, start.why)


def named(start: ProposedStart, words: Sequence[str]) -> ProposedStart:
    """The same with a token of its own for each of the words that all captions share, where they are those of a few pictures."""
    if start.recipe.rehearsal is None or not words:
        return start
    return replace(start, recipe=start.recipe.model_copy(update={"placeholder_tokens": tuple(words)}))


def adapter_recipe(source: str, on_gpu: bool) -> Recipe:
    """A LoRA of both halves on a Stable Diffusion, SDXL or PanGu pair folder, or hub id, with its own encoders and noise levels.

    Raises:
        UserError: it is not there, or has no UNet of a kind that is trained here.
    """
    from pangu.models.init_weights import find_weights, scheduler_values  # brings diffusers along

    root = locate(source, "starter_pair")
    index = read_config(root, "model_index.json")
    if index is None:
        raise UserError(
            f"{source} holds no model_index.json; name a pipeline folder as diffusers saves it, or its hub id."
        )
    lora = LoraConfig()
    execution = Execution(precision="bf16", gradient_checkpointing=True) if on_gpu else Execution(prefetch=0)
    beside = Path(root).with_name(f"{Path(root).name}.recipe.json")
    if "contracts" in index and beside.is_file():  # as `pangu import` leaves it
        return recipe(str(beside)).model_copy(update={"execution": execution})
    if "contracts" in index:
        return recipe("demo").model_copy(update={"init_from": InitialWeights(source=root), "lora": lora})
    towers = [name for name in ("text_encoder", "text_encoder_2") if (index.get(name) or [None])[0]]
    unet, vae = (read_config(root, f"{part}/config.json") for part in ("unet", "vae"))
    if unet is None or vae is None or not towers or unet.get("_class_name") != "UNet2DConditionModel":
        raise UserError(
            f"{source} is a {index.get('_class_name')}; name a Stable Diffusion or SDXL pipeline, or a pair."
        )
    configs = [read_config(root, f"{name}/config.json") or {} for name in towers]
    side = int(unet.get("sample_size") or 64) * 2 ** (len(vae["block_out_channels"]) - 1)
    large: dict[str, Any] = {"resolution": side // 2, "crop_from": side} if side >= 1024 else {"resolution": side}
    start = InitialWeights(source=root, subfolder="unet")
    try:
        schedule = NoiseSchedule(**(scheduler_values(find_weights(start, "structure")) or {}))
    except ValidationError as error:
        raise UserError(f"{source} has noise levels that are not trained here: {error.errors()[0]['msg']}.") from error
    return Recipe(
        name="adapter",
        schedule=schedule,
        boundary=schedule.num_train_timesteps // 2,
        autoencoder=AutoencoderSource(source=root, subfolder="vae"),
        text_encoders=tuple(
            TextEncoderSource(
                source=root,
                subfolder=name,
                tokenizer_subfolder=name.replace("text_encoder", "tokenizer"),
                hidden_layer=-2 if "text_encoder_2" in towers else 0,
                sees_padding=True,
            )
            for name in towers
        ),
        max_tokens=min(int(config.get("max_position_embeddings", 77)) for config in configs),
        init_from=start,
        lora=lora,
        jobs={
            "structure": RoleTraining(resolution=side, steps=1000, batch_size=4),
            "texture": RoleTraining(rows="originals", steps=1000, batch_size=4, **large),
        },
        optimization=Optimization(lr_peak=1e-4, ema_decays=(0.99,)),
        execution=execution,
        sampling=Sampling(num_inference_steps=30, guidance_scale=7.5),
    )
