"""The evaluation protocol of a pair: what is generated, from which captions, and what is measured on it.

The hash of the protocol stands beside every number, so that only comparable numbers are compared.
"""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from pangu.config import Frozen, Recipe
from pangu.contract import GeneratorContract, check_pair
from pangu.data.encode import Manifest, fit_pixels
from pangu.data.table import read_rows
from pangu.evaluate import features
from pangu.evaluate.retrieval import Retrieval, retrieval
from pangu.pipelines.assemble import assemble_pair
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.progress import Progress, Reporter, silent
from pangu.storage import Home, read_json, write_atomically, write_json


class Protocol(Frozen):
    """How a pair is judged."""

    prompts_per_language: int = 24
    num_inference_steps: int
    guidance_scale: float
    seed: int = 1234
    feature_space: str = features.NAME


class EvaluateOutcome(Frozen):
    """A pair and its numbers."""

    pair_id: str
    pair: str
    metrics: dict[str, float]
    protocol: Protocol
    protocol_hash: str
    sample_grid: str
    already_done: bool = False


def evaluate(
    structure: Path, texture: Path, recipe: Recipe, dataset: str, encode_id: str, home: Home, report: Reporter = silent
) -> EvaluateOutcome:
    """Assemble the pair and measure retrieval of its images in both languages, on captions of the training split.

    Raises:
        UserError: the two generators do not make a pair.
    """
    contracts = GeneratorContract.load(structure), GeneratorContract.load(texture)
    check_pair(*contracts)
    protocol = Protocol(
        num_inference_steps=recipe.sampling.num_inference_steps, guidance_scale=recipe.sampling.guidance_scale
    )
    pair_id = pair_digest(structure, texture)
    folder = home.pair(pair_id)
    outcome = folder.with_name(f"{pair_id}-{protocol.digest()}.json")
    if outcome.is_file() and folder.is_dir():
        return EvaluateOutcome.model_validate(read_json(outcome)).model_copy(update={"already_done": True})

    pipeline = assemble_pair(structure, texture, recipe, folder)
    pipeline.set_progress_bar_config(disable=True)
    version = Manifest.load(home.encoded(dataset, encode_id)).version
    rows = read_rows(home, dataset, version, columns=["key", "image", "caption_en", "caption_zh", "split"])
    candidates = candidate_images(rows, recipe.structure.resolution)
    chosen = choose_rows(rows, protocol.prompts_per_language, protocol.seed)
    scores: dict[str, Retrieval] = {}
    grid: list[list[Image.Image]] = []
    for language in ("zh", "en"):
        images = generate(pipeline, chosen, language, protocol, report)
        scores[language] = retrieval(images, chosen["key"].to_pylist(), candidates)
        grid.append(images)
    grid.append([candidates[key] for key in chosen["key"].to_pylist()])
    grid_path = folder.with_name(f"{pair_id}.png")
    write_atomically(grid_path, sample_grid(grid))
    result = EvaluateOutcome(
        pair_id=pair_id,
        pair=str(folder),
        metrics=metrics_of(scores),
        protocol=protocol,
        protocol_hash=protocol.digest(),
        sample_grid=str(grid_path),
    )
    write_json(outcome, result.model_dump(mode="json"))
    return result


def pair_digest(structure: Path, texture: Path) -> str:
    """Id of the pair of two generator folders: a function of their weights and contracts."""
    import hashlib

    digest = hashlib.sha256()
    for folder in (structure, texture):
        for name in ("contract.json", "config.json", "diffusion_pytorch_model.safetensors"):
            digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]


def candidate_images(rows: pa.Table, side: int) -> dict[str, Image.Image]:
    """Every image of the dataset version by key, as the structure generator saw it."""
    pairs = zip(rows["key"].to_pylist(), rows["image"].to_pylist(), strict=True)
    return {key: Image.fromarray(fit_pixels(image, side)) for key, image in pairs}


def choose_rows(rows: pa.Table, count: int, seed: int) -> pa.Table:
    """A seeded choice of training rows with captions in both languages, independent of the order of the table."""
    usable = [
        i
        for i, (en, zh, split) in enumerate(
            zip(*(rows[c].to_pylist() for c in ("caption_en", "caption_zh", "split")), strict=True)
        )
        if en and zh and split == "train"
    ]
    ordered = rows.take(usable).sort_by("key")
    picked = np.random.default_rng(seed).permutation(ordered.num_rows)[:count]
    return ordered.take(np.sort(picked))


def generate(
    pipeline: PanGuDrawPipeline, rows: pa.Table, language: str, protocol: Protocol, report: Reporter, batch: int = 8
) -> list[Image.Image]:
    """One image per row from its caption in `language`; image i has seed protocol.seed + i in both languages."""
    captions = rows[f"caption_{language}"].to_pylist()
    images: list[Image.Image] = []
    for start in range(0, len(captions), batch):
        prompts = captions[start : start + batch]
        generators = [torch.Generator().manual_seed(protocol.seed + start + i) for i in range(len(prompts))]
        images += pipeline(
            prompts,
            num_inference_steps=protocol.num_inference_steps,
            guidance_scale=protocol.guidance_scale,
            generator=generators,
        ).images
        report(Progress(stage=f"evaluate-{language}", done=len(images), total=len(captions), unit="images"))
    return images


def metrics_of(scores: dict[str, Retrieval]) -> dict[str, float]:
    """Per language and, under the plain names, the worse of the two: a pair has to serve both."""
    metrics = {f"retrieval_top1_{language}": score.top1 for language, score in scores.items()}
    metrics |= {f"retrieval_top5_{language}": score.top5 for language, score in scores.items()}
    metrics["retrieval_top1"] = min(score.top1 for score in scores.values())
    metrics["retrieval_top5"] = min(score.top5 for score in scores.values())
    metrics["retrieval_candidates"] = float(next(iter(scores.values())).candidates)
    return metrics


def sample_grid(rows: list[list[Image.Image]], gap: int = 4) -> bytes:
    """Rows of equally sized images as one PNG on white."""
    width, height = rows[0][0].size
    sheet = Image.new("RGB", ((width + gap) * len(rows[0]) + gap, (height + gap) * len(rows) + gap), "white")
    for y, images in enumerate(rows):
        for x, image in enumerate(images):
            sheet.paste(image, (gap + x * (width + gap), gap + y * (height + gap)))
    sink = io.BytesIO()
    sheet.save(sink, "PNG")
    return sink.getvalue()
