"""`pangu evaluate`, `pangu matrix`, `pangu boundary`: how good a pair is, which pair is best, and where its boundary belongs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pangu.cli.common import JsonOption, ResultOption, finish
from pangu.errors import UserError

if TYPE_CHECKING:
    from pangu.config import Recipe
    from pangu.evaluate.judges import Judges
    from pangu.evaluate.protocol import Protocol
    from pangu.storage import Home

CardArgument = Annotated[str, typer.Argument(help="A dataset card: a path, or the name of a file in datasets/.")]
RecipeOption = Annotated[str, typer.Option("--recipe", help="Which recipe, e.g. 'demo'.")]
EncodeIdOption = Annotated[str, typer.Option("--encode-id", help="The id that `pangu encode` printed.")]
SplitOption = Annotated[
    str | None,
    typer.Option("--split", help="'train' or 'held_out'. Default: held_out where the dataset holds rows out."),
]
PromptsOption = Annotated[str, typer.Option("--prompts", help="Captions per language and split: a number, or 'all'.")]
MetricsOption = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        help="Of retrieval, fid, kid, is, clip, cn_clip, loss; commas between. Default: what the judges are for.",
    ),
]
InceptionOption = Annotated[
    Path | None, typer.Option("--inception", help="TorchScript Inception network for FID, KID and IS.")
]
ClipOption = Annotated[str | None, typer.Option("--clip", help="CLIP model: a folder or a hub id.")]
CnClipOption = Annotated[str | None, typer.Option("--cn-clip", help="Chinese CLIP model: a folder or a hub id.")]
StepsOption = Annotated[int | None, typer.Option("--steps", help="Sampling steps. Default: the recipe's.")]
GuidanceOption = Annotated[float | None, typer.Option("--guidance", help="Guidance scale. Default: the recipe's.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of the choice of prompts and of the noise.")]


def register(app: typer.Typer) -> None:
    """Add this part's commands to `app`."""
    app.command()(evaluate)
    app.command()(matrix)
    app.command()(boundary)


def evaluate(
    card: CardArgument,
    structure: Annotated[Path, typer.Option(help="Generator folder of the structure generator.")],
    texture: Annotated[Path, typer.Option(help="Generator folder of the texture generator.")],
    encode_id: EncodeIdOption,
    recipe: RecipeOption = "demo",
    split: SplitOption = None,
    prompts: PromptsOption = "24",
    metrics: MetricsOption = None,
    inception: InceptionOption = None,
    clip: ClipOption = None,
    cn_clip: CnClipOption = None,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    seed: SeedOption = 1234,
    result: ResultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Assemble a pair and measure it by the evaluation protocol."""
    from pangu.data.card import load_card
    from pangu.evaluate.evaluation import evaluate as run
    from pangu.evaluate.judges import load_judges
    from pangu.progress import print_progress
    from pangu.recipes import recipe as named
    from pangu.storage import Home

    dataset, home, chosen = load_card(card).name, Home.from_environment(), named(recipe)
    judges = load_judges(inception, clip, cn_clip)
    protocol = _protocol(chosen, home, dataset, encode_id, judges, split, prompts, metrics, steps, guidance, seed)
    finish(run(structure, texture, chosen, dataset, encode_id, home, print_progress, protocol, judges), result, as_json)


def matrix(
    card: CardArgument,
    structure: Annotated[list[Path], typer.Option(help="Folder of a structure generator; may be given again.")],
    texture: Annotated[list[Path], typer.Option(help="Folder of a texture generator; may be given again.")],
    encode_id: EncodeIdOption,
    recipe: RecipeOption = "demo",
    champion: Annotated[
        bool, typer.Option("--champion", help="Also both halves of the pair that is released.")
    ] = False,
    rank_by: Annotated[str | None, typer.Option(help="Which measured number ranks pairs.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where table and picture go. Default: in the home.")] = None,
    split: SplitOption = None,
    prompts: PromptsOption = "24",
    metrics: MetricsOption = None,
    inception: InceptionOption = None,
    clip: ClipOption = None,
    cn_clip: CnClipOption = None,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    seed: SeedOption = 1234,
    result: ResultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score every structure with every texture generator and propose the best pair."""
    from pangu.data.card import load_card
    from pangu.evaluate.judges import load_judges
    from pangu.evaluate.matrix import matrix as run
    from pangu.progress import print_progress
    from pangu.recipes import recipe as named
    from pangu.registry.fetch import fetch_halves, unlike
    from pangu.registry.tracking import CHAMPION
    from pangu.storage import Home

    dataset, home, chosen = load_card(card).name, Home.from_environment(), named(recipe)
    judges = load_judges(inception, clip, cn_clip)
    protocol = _protocol(chosen, home, dataset, encode_id, judges, split, prompts, metrics, steps, guidance, seed)
    target = folder or home.dataset(dataset) / "matrix" / protocol.digest()
    structures, textures = list(structure), list(texture)
    if champion:
        released = fetch_halves(CHAMPION, home.root / "fetched")
        structures += unlike(structures, released["structure"])
        textures += unlike(textures, released["texture"])
    outcome = run(
        structures, textures, chosen, dataset, encode_id, home, target, print_progress, protocol, judges, rank_by
    )
    finish(outcome, result, as_json)


def boundary(
    card: CardArgument,
    generator: Annotated[
        list[Path], typer.Option(help="Generator folder of the probe; give two for the halves of a pair.")
    ],
    recipe: RecipeOption = "demo",
    version: Annotated[int | None, typer.Option(help="Dataset version. Default: the newest.")] = None,
    images: Annotated[int, typer.Option(min=8, help="Originals to measure on, at most.")] = 96,
    visible: Annotated[
        float, typer.Option(min=0.001, max=0.999, help="Share of the lost detail that z_t may still show.")
    ] = 0.1,
    folder: Annotated[Path | None, typer.Option(help="Where curve and picture go. Default: in the home.")] = None,
    result: ResultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Recommend T_struct from a short probe run and from what upscaling lost, with the curve as a picture."""
    from pangu.data.card import load_card
    from pangu.evaluate.probe import find_boundary
    from pangu.progress import print_progress
    from pangu.recipes import recipe as named
    from pangu.storage import Home

    read, home = load_card(card), Home.from_environment()
    target = folder or home.dataset(read.name) / "boundary"
    outcome = find_boundary(
        read, generator, named(recipe), home, target, version, images, visible, report=print_progress
    )
    finish(outcome, result, as_json)


def _protocol(
    recipe: "Recipe",
    home: "Home",
    dataset: str,
    encode_id: str,
    judges: "Judges",
    split: str | None,
    prompts: str,
    metrics: str | None,
    steps: int | None,
    guidance: float | None,
    seed: int,
) -> "Protocol":
    """The protocol that the options ask for.

    Raises:
        UserError: an option is out of its range.
    """
    from pangu.data.encode.stage import Manifest
    from pangu.evaluate.evaluation import plan

    if prompts != "all" and not (prompts.isdigit() and int(prompts) > 0):
        raise UserError(f"--prompts must be a number of at least 1, or 'all', not '{prompts}'.")
    if split not in (None, "train", "held_out"):
        raise UserError(f"--split must be 'train' or 'held_out', not '{split}'.")
    if steps is not None and not 1 <= steps <= 1000:
        raise UserError(f"--steps must lie in 1 ... 1000, not {steps}.")
    if guidance is not None and not 0 <= guidance <= 50:
        raise UserError(f"--guidance must lie in 0 ... 50, not {guidance}.")
    if seed < 0:
        raise UserError(f"--seed must not be negative, not {seed}.")
    changes: dict[str, object] = {"prompts_per_language": None if prompts == "all" else int(prompts), "seed": seed}
    if steps is not None:
        changes["num_inference_steps"] = steps
    if guidance is not None:
        changes["guidance_scale"] = guidance
    named = None if metrics is None else [name.strip() for name in metrics.split(",") if name.strip()]
    version = Manifest.load(home.encoded(dataset, encode_id)).version
    return plan(recipe, home, dataset, version, judges, split, named, **changes)  # type: ignore[arg-type]
