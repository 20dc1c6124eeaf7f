"""What a recipe must say to train the transformer of a pipeline of others: how it reads text, its noise levels, its size.

Texts are read as diffusers' own pipelines do it, but for what stands in docs/import_export.md.
"""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pangu.config import (
    AbsentText,
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
    TextJoin,
)
from pangu.config.noise_schedule import FLOW_FIELDS
from pangu.errors import UserError
from pangu.exchange.experts import ExpertOnDisk
from pangu.models.denoisers import family_of_class
from pangu.storage import read_json

CLIP_TOKENS = 77
QWEN_IMAGE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships "
    "of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
"""What Qwen-Image's text encoder is told (`prompt_template_encode` of its pipeline); its first 34 tokens are not passed on."""
CLIP: dict[str, Any] = {"hidden_layer": -2, "sees_padding": True}
READ: dict[str, dict[str, dict[str, Any]]] = {
    "StableDiffusion3Pipeline": {
        "text_encoder": CLIP | {"join": {"max_tokens": CLIP_TOKENS, "pooled": True}},
        "text_encoder_2": CLIP | {"join": {"max_tokens": CLIP_TOKENS, "pooled": True}},
        "text_encoder_3": {"hidden_layer": 0, "sees_padding": True, "join": {"max_tokens": 256, "tokens": "sequence"}},
    },
    "FluxPipeline": {
        "text_encoder": CLIP | {"join": {"max_tokens": CLIP_TOKENS, "tokens": "unread", "pooled": True}},
        "text_encoder_2": {"hidden_layer": 0, "sees_padding": True, "join": {"max_tokens": 512}},
    },
    "SanaPipeline": {
        "text_encoder": {"hidden_layer": 0, "join": {"max_tokens": 300, "padding": "masked", "lower": True}}
    },
    "PixArtSigmaPipeline": {
        "text_encoder": {"hidden_layer": 0, "join": {"max_tokens": 300, "padding": "masked", "lower": True}}
    },
    "PixArtAlphaPipeline": {
        "text_encoder": {"hidden_layer": 0, "join": {"max_tokens": 120, "padding": "masked", "lower": True}}
    },
    "WanPipeline": {"text_encoder": {"hidden_layer": 0, "join": {"max_tokens": 512, "padding": "zeros"}}},
    "QwenImagePipeline": {
        "text_encoder": {
            "hidden_layer": 0,
            "join": {"max_tokens": 512, "padding": "masked", "template": QWEN_IMAGE, "dropped": 34},
        }
    },
    "ZImagePipeline": {"text_encoder": {"hidden_layer": -2, "join": {"max_tokens": 512, "padding": "masked"}}},
}
"""Pipeline of diffusers -> text encoder -> how it is read."""
CHATS = ("ZImagePipeline",)
"""Those that put a prompt into their tokenizer's own chat template, as what a user says."""
MAY_LACK = (("StableDiffusion3Pipeline", "text_encoder_3"),)
"""(pipeline, text encoder) that it may be saved without, and then reads zeros in place of."""
COUNTS_FROM_NOTHING = ("ZImagePipeline",)
"""Those whose scale of guidance is 0, not 1, where there is none."""


def transformer_recipe(expert: ExpertOnDisk, resolution: int | None) -> Recipe:
    """An adapter (LoRA) on both halves, with the encoders and noise levels of the pipeline; its boundary is yet to be said.

    resolution: side of its pictures, px; None: as its network says.

    Raises:
        UserError: nobody says a size, or it reads text or is told things in a way that is not known here.
    """
    index, config = (
        read_json(Path(expert.root) / name) for name in ("model_index.json", f"{expert.subfolder}/config.json")
    )
    kind, family = str(index.get("_class_name")), family_of_class(expert.network)
    if family is None or kind not in READ:
        raise UserError(
            f"{expert.name} is a {expert.network} of a {kind}, whose way of reading text is not known here; known are "
            f"{', '.join(READ)} and pipelines of UNets."
        )
    texts = _texts(expert.root, index, config, kind)
    side = resolution or int(config.get("sample_size") or 0) * _spatial_factor(expert.root)
    if not side:
        raise UserError(f"{expert.name} does not say how large its pictures are; say it by --resolution, px.")
    usual = inspect.signature(_class_of(kind).__call__).parameters
    guidance = usual.get("true_cfg_scale") or usual["guidance_scale"]
    schedule = _schedule(expert.root)
    return Recipe(
        name="adapter",
        schedule=schedule,
        boundary=schedule.num_train_timesteps // 2,
        autoencoder=AutoencoderSource(source=expert.root, subfolder="vae"),
        text_encoders=tuple(texts),
        max_tokens=_tokens_read([one.join for one in texts if one.join]),
        denoiser=family.shape(family=family.name),
        init_from=InitialWeights(source=expert.root, subfolder=expert.subfolder),
        lora=LoraConfig() if family.lora_targets else None,
        jobs={
            "structure": RoleTraining(resolution=side, steps=1000, batch_size=4),
            "texture": RoleTraining(rows="originals", resolution=side, steps=1000, batch_size=4),
        },
        optimization=Optimization(lr_peak=1e-4, ema_decays=(0.99,)),
        execution=Execution(prefetch=0),
        sampling=Sampling(
            num_inference_steps=30, guidance_scale=float(guidance.default) + (kind in COUNTS_FROM_NOTHING)
        ),
    )


def told_guidance(expert: ExpertOnDisk, named: float | None) -> float | None:
    """The scale that a guidance-distilled network is told: the one named, or its pipeline's usual one; None for all others.

    Raises:
        UserError: one is named, but the network is told none.
    """
    config, index = (
        read_json(Path(expert.root) / name) for name in (f"{expert.subfolder}/config.json", "model_index.json")
    )
    if not config.get("guidance_embeds"):
        if named is not None:
            raise UserError(f"{expert.name} was not distilled to be told a guidance scale; leave out --told-guidance.")
        return None
    return float(
        inspect.signature(_class_of(index["_class_name"]).__call__).parameters["guidance_scale"].default
        if named is None
        else named
    )


def _texts(root: str, index: dict[str, Any], config: dict[str, Any], kind: str) -> list[TextEncoderSource]:
    """The text encoders that a pipeline has; where one may be left out and is, zeros stand behind the one before it."""
    found: list[TextEncoderSource] = []
    for name, way in READ[kind].items():
        join = dict(way["join"])
        if (kind, name) in MAY_LACK and not (index.get(name) or [None])[0]:
            absent = AbsentText(tokens=join["max_tokens"], channels=int(config["joint_attention_dim"]))
            before = found.pop()
            assert before.join is not None, "whatever is read here says how it stands beside the others"
            found.append(before.model_copy(update={"join": before.join.model_copy(update={"absent": absent})}))
        else:
            found.append(_text(root, index, name, dict(way), kind in CHATS))
    return found


def _tokens_read(joins: Sequence[TextJoin]) -> int:
    """How many tokens a denoiser reads of encoders that stand so."""
    behind = sum(join.max_tokens for join in joins if join.tokens == "sequence")
    absent = sum(join.absent.tokens for join in joins if join.absent)
    return behind + absent + max(join.max_tokens for join in joins if join.tokens == "channels")


def _text(root: str, index: dict[str, Any], name: str, way: dict[str, Any], chats: bool) -> TextEncoderSource:
    if not (index.get(name) or [None])[0]:
        raise UserError(f"{root} was saved without its {name}, so it can not read text as it was trained to.")
    most = read_json(Path(root) / name / "config.json").get("max_position_embeddings")
    join = dict(way.pop("join"))
    if join["max_tokens"] == CLIP_TOKENS:
        join["max_tokens"] = min(CLIP_TOKENS, int(most or CLIP_TOKENS))
    tokenizer = name.replace("text_encoder", "tokenizer")
    if chats:
        join["template"] = _chat_template(root, tokenizer)
    return TextEncoderSource(
        source=root, subfolder=name, tokenizer_subfolder=tokenizer, join=TextJoin(**join), **way
    )  # fmt: skip


def _chat_template(root: str, subfolder: str) -> str:
    from transformers import AutoTokenizer

    said = [{"role": "user", "content": "{}"}]
    try:
        tokenizer = AutoTokenizer.from_pretrained(root, subfolder=subfolder)
        told = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True, enable_thinking=True)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"The tokenizer of {root} does not say how it is spoken to: {reason}.") from error
    return str(told)


def _spatial_factor(root: str) -> int:
    config = read_json(Path(root) / "vae/config.json")
    widths = (
        config.get("dim_mult") or config.get("encoder_block_out_channels") or config.get("block_out_channels") or [0]
    )
    return int(2 ** (len(widths) - 1))


def _class_of(name: str) -> Any:
    import diffusers

    return getattr(diffusers, name)


def _schedule(root: str) -> NoiseSchedule:
    """The noise levels of a pipeline, by whatever sampler it visits them.

    Raises:
        UserError: they are not known here.
    """
    from pangu.models.init_weights import FoundWeights, scheduler_values

    config = read_json(Path(root) / "scheduler/scheduler_config.json")
    values = scheduler_values(FoundWeights(root, None, None)) or {}
    if values.get("prediction_type") == "flow_prediction":
        # Samplers of noise that walk flows say the shift by another name.
        shift = config.get("shift", config.get("flow_shift", 1.0))
        kept = ("prediction_type", "num_train_timesteps", *FLOW_FIELDS)
        values = {name: values[name] for name in kept if name in values}
        values["shift"] = 1.0 if values.get("use_dynamic_shifting") else shift
    try:
        return NoiseSchedule(**values)
    except ValidationError as error:
        raise UserError(f"{root} has noise levels that are not trained here: {error.errors()[0]['msg']}.") from error
