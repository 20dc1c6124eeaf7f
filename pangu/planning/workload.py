"""Counting what a card and a recipe ask for: rows and bytes from this installation's own dataset, or from what the spec knows."""

from pangu.config import Recipe
from pangu.data.card import Card
from pangu.data.ingest.any_source import read_source
from pangu.data.table.delta import data_files, latest_version, read_rows
from pangu.data.table.rows_file import bytes_of
from pangu.errors import UserError
from pangu.planning.cluster_spec import Corpus
from pangu.planning.operations import Shapes, drawing_operations, encoding_operations, parameters, training_operations
from pangu.planning.plan import JobWork, Work
from pangu.storage import Home, read_json

PROMPTS = 24
"""What `pangu evaluate` draws of each split and language if nobody says otherwise."""


def known_corpus(card: Card, home: Home) -> Corpus:
    """What this installation has already seen of the card's images; empty fields where it has seen nothing."""
    found: dict[str, float | int] = {}
    sources: dict[str, str] = {}
    outcome = _newest_ingest(card.name, home)
    if outcome is not None:
        found |= {"rows": outcome["listed"], "ok_share": max(outcome["ok"], 1) / outcome["listed"]}
        sources |= dict.fromkeys(("rows", "ok_share"), "the newest ingest of this installation")
    try:
        version = latest_version(home, card.name)
        files = data_files(home, card.name, version)
        rows = read_rows(home, card.name, version, columns=["upscaled", "original_width", "original_height"])
    except UserError:
        return Corpus.model_validate(found | {"sources": sources})
    pixels = sum(
        w * h for w, h in zip(*(rows[f"original_{side}"].to_pylist() for side in ("width", "height")), strict=True)
    )
    found |= {
        "small_share": sum(rows["upscaled"].to_pylist()) / rows.num_rows,
        "megapixels": pixels / rows.num_rows / 1e6,
    }
    sources |= dict.fromkeys(("small_share", "megapixels"), f"version {version} of the dataset")
    found["row_bytes"] = bytes_of(files) / rows.num_rows
    sources["row_bytes"] = f"version {version} of the dataset"
    if outcome is not None and outcome["ok"]:
        found["kept_share"] = min(1.0, rows.num_rows / outcome["ok"])
        sources["kept_share"] = f"version {version} of the dataset"
    return Corpus.model_validate(found | {"sources": sources})


def merged(asked: Corpus, known: Corpus) -> Corpus:
    """What the spec says, and otherwise what this installation knows."""
    values = known.model_dump(exclude_none=True) | asked.model_dump(exclude_none=True)
    said = {name: asked.sources.get(name, "as given") for name in asked.model_fields_set - {"sources"}}
    return Corpus.model_validate(values | {"sources": known.sources | said})


def count_work(card: Card, recipe: Recipe, corpus: Corpus, home: Home) -> Work:
    """Count everything.

    Raises:
        UserError: nobody knows how many rows there are, or how large the images are.
    """
    listed = corpus.rows or _listed(card, home)
    if corpus.megapixels is None:
        raise UserError(
            f"How large the images of '{card.name}' are is not known yet; say `megapixels` in the corpus of the cluster file."
        )
    ok = round(listed * (corpus.ok_share or 1.0))
    rows = round(ok * (corpus.kept_share or 1.0))
    shapes = Shapes(recipe)
    sides = {job.encoded_side for job in recipe.jobs.values()}
    one_of_side = {job.encoded_side: job for job in recipe.jobs.values()}
    target = card.upscale.target_side
    image_bytes = corpus.image_bytes or corpus.row_bytes or 0.0
    return Work(
        listed=listed,
        ok=ok,
        rows=rows,
        upscaled=round(rows * (corpus.small_share or 0.0)),
        image_bytes=image_bytes,
        row_bytes=corpus.row_bytes or image_bytes,
        latent_bytes=sum(_latent_bytes(shapes, side) for side in sides),
        megapixels=corpus.megapixels,
        upscaled_megapixels=target * target / 1e6,
        encode_operations=sum(encoding_operations(shapes, job) for job in one_of_side.values()),
        jobs={
            role: JobWork(
                steps=job.steps,
                batch_size=job.batch_size,
                operations_per_image=training_operations(shapes, role),
                network_parameters=parameters(shapes, role),
            )
            for role, job in recipe.jobs.items()
        },
        drawn_images=2 * PROMPTS,
        draw_operations=drawing_operations(shapes),
    )


def _latent_bytes(shapes: Shapes, side: int) -> float:
    """Half precision: latents, and the tokens and pooled text of two captions."""
    latents = shapes.latent_channels * (side // 8) ** 2
    text = 2 * (shapes.recipe.max_tokens * shapes.tokens + shapes.pooled)
    return 2.0 * (latents + text)


def _listed(card: Card, home: Home) -> int:
    try:
        return read_source(card, home).num_rows
    except UserError as error:
        raise UserError(
            f"How many rows '{card.name}' lists is not known ({error}) Say `rows` in the corpus of the cluster file."
        ) from error


def _newest_ingest(dataset: str, home: Home) -> dict[str, int] | None:
    found = []
    for path in (home.root / "flows").glob("*/ingest.json"):
        outcome = read_json(path)
        if outcome.get("dataset") == dataset and outcome.get("listed"):
            found.append((path.stat().st_mtime, outcome))
    return max(found, key=lambda one: one[0])[1] if found else None
