"""What a training starts from draws what it knows, and is trained on that beside the dataset (`Recipe.rehearsal`).

Drawn once into the run folder, as latents: every worker and every attempt is shown the same.
"""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from pangu.config import REHEARSAL, Recipe, Role
from pangu.data.captions import LANGUAGES
from pangu.data.encode.encoded import Encoders
from pangu.data.encode.views import job_data
from pangu.data.example.openmoji import selection
from pangu.data.rows.in_memory import EncodedRows
from pangu.data.rows.mixed_rows import beside
from pangu.data.rows.training_rows import Rows
from pangu.errors import UserError
from pangu.models.devices import best_device
from pangu.models.init_weights import STARTER, Resolve, is_registered
from pangu.models.sources import locate, read_config
from pangu.models.text import embed_captions
from pangu.pipelines.assemble import starting_pair
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.progress import Progress, Reporter, silent
from pangu.storage import read_json, write_json

ROWS, TEXTS = "rows.safetensors", "captions.json"
AT_ONCE = 16
MOST_DRAWINGS = 1000
"""Of the embedded pair's that are asked for by their captions, again and again where more pictures are wanted."""


def pin_rehearsal(
    run_folder: Path,
    recipe: Recipe,
    role: Role,
    encoders: Encoders,
    resolve: Resolve | None = None,
    report: Reporter = silent,
) -> None:
    """Let the pair that `recipe.init_from` names draw what `recipe.rehearsal` asks for into the run folder, once.

    Raises:
        UserError: nobody says what it can draw, or it can not be drawn with.
    """
    asked, folder = recipe.rehearsal, run_folder / REHEARSAL
    if asked is None or folder.is_dir():
        return
    pair = starting_pair(recipe, resolve).to(best_device())
    pair.set_progress_bar_config(disable=True)
    prompts = asked.prompts or _proposed(recipe, asked.pictures, resolve)
    texts = [prompts[number % len(prompts)] for number in range(asked.pictures)]
    data = job_data(recipe.training(role), encoders.spatial_factor)
    side = recipe.training(role).encoded_side
    latents, done = [], 0
    for first in range(0, len(texts), AT_ONCE):
        part = texts[first : first + AT_ONCE]
        noise = [torch.Generator().manual_seed(recipe.seed + first + number) for number in range(len(part))]
        steps = {
            "num_inference_steps": recipe.sampling.num_inference_steps,
            "generator": noise,
            "output_type": "latent",
        }
        guidance = recipe.sampling.guidance_scale
        drawn = pair(part, height=side, width=side, guidance_scale=guidance, **steps).images
        latents.append(torch.as_tensor(drawn).cpu().half())
        done += len(part)
        report(Progress(stage=REHEARSAL, done=done, total=len(texts), unit="pictures"))
    tokens, pooled = _embedded(pair, texts, recipe.max_tokens)
    preset = data.trained[data.view.preset_of(side, side)]
    temporary = folder.with_name(f".{REHEARSAL}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    write_json(temporary / TEXTS, texts)
    save_file(
        {"latents": torch.cat(latents), "tokens": tokens, "pooled": pooled, "preset": torch.tensor(preset)},
        temporary / ROWS,
    )
    temporary.rename(folder)


def with_rehearsal(rows: Rows, dataset: str, run_folder: Path, recipe: Recipe) -> Rows:
    """The rows of a dataset (its name) and, beside them, those that were drawn; as they are where the recipe rehearses nothing.

    Raises:
        UserError: the run folder lacks them.
    """
    if recipe.rehearsal is None:
        return rows
    folder = run_folder / REHEARSAL
    if not folder.is_dir():
        raise UserError(f"The run folder {run_folder} lacks its rehearsal; start it with `pangu train`.")
    return beside(rows, dataset, REHEARSAL, _rows(folder), recipe.rehearsal.share)


def _rows(folder: Path) -> EncodedRows:
    tensors, texts = load_file(folder / ROWS), read_json(folder / TEXTS)
    count = len(texts)
    tokens, pooled = (
        tensors[name][None, :count].expand(len(LANGUAGES), *tensors[name][:count].shape)
        for name in ("tokens", "pooled")
    )
    return EncodedRows(
        keys=tuple(f"{REHEARSAL}-{number:06d}" for number in range(count)),
        latents_nchw=tensors["latents"],
        tokens_lnsc=tokens,
        pooled_lnp=pooled,
        min_timestep_n=torch.zeros(count, dtype=torch.int64),
        preset_n=tensors["preset"].expand(count),
        empty_tokens_sc=tensors["tokens"][count],
        empty_pooled_p=tensors["pooled"][count],
    )


def _proposed(recipe: Recipe, count: int, resolve: Resolve | None) -> Sequence[str]:
    """What the start says that it can draw: the embedded pair the drawings that it learned, another one its prompts."""
    assert recipe.init_from is not None
    source = recipe.init_from.source
    if source == "embedded":
        with suppress(UserError):  # where the drawings are not installed, its prompts are there
            known = selection(min(count, MOST_DRAWINGS))
            return [one.caption_en if number % 2 else one.caption_zh for number, one in enumerate(known)]
    root = str(resolve(source)) if resolve and is_registered(source) else locate(source, STARTER)
    index = read_config(root, "model_index.json") or {}
    found = [text for texts in (index.get("prompts") or {}).values() for text in texts]
    if not found:
        raise UserError(f"{source} proposes no prompts; name in rehearsal.prompts what it can draw.")
    return found


def _embedded(pair: PanGuDrawPipeline, texts: Sequence[str], max_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and pooled text of every caption, and of the empty one behind them, float16."""
    parts = [
        embed_captions(pair.text_towers, [*texts, ""][first : first + AT_ONCE], max_tokens)
        for first in range(0, len(texts) + 1, AT_ONCE)
    ]
    tokens, pooled = (torch.cat(each).cpu().half().contiguous() for each in zip(*parts, strict=True))
    return tokens, pooled
