"""`pangu evaluate`, `pangu pair-matrix`, `pangu boundary`: how good a pair is, which is best, and where its boundary belongs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml

from pangu.cli import complete
from pangu.cli.common import (
    CardArgument,
    EncodeIdOption,
    GpusOption,
    JsonOption,
    OnRayOption,
    RecipeOption,
    ResultOption,
    VersionOption,
    WorkersOption,
    encode_id_of,
    finish,
    spread_of,
    version_of,
)
from pangu.errors import UserError
from pangu.names import LATEST

if TYPE_CHECKING:
    from pangu.config import Recipe
    from pangu.evaluate.metrics import Judges
    from pangu.evaluate.protocol import Protocol
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline
    from pangu.storage import Home

SplitOption = Annotated[
    str | None,
    typer.Option("--split", help="'train' or 'held_out'. Default: held_out where the dataset holds rows out."),
]
PromptsOption = Annotated[str, typer.Option("--prompts", help="Captions per language and split: a number, or 'all'.")]
CandidatesOption = Annotated[
    int | None,
    typer.Option("--candidates", min=1, help="Images of the dataset that `retrieval` ranks. Default: all of them."),
]
MetricsOption = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        help="Of retrieval, fid, kid, is, clip, cn_clip, loss, style, outside; commas between. Default: what the judges are "
        "for, and style where rows have styles that the recipe knows.",
    ),
]
InceptionOption = Annotated[
    Path | None, typer.Option("--inception", help="TorchScript Inception network for FID, KID and IS.")
]
ClipOption = Annotated[str | None, typer.Option("--clip", help="CLIP model: a folder or a hub id.")]
CnClipOption = Annotated[str | None, typer.Option("--cn-clip", help="Chinese CLIP model: a folder or a hub id.")]
StepsOption = Annotated[int | None, typer.Option("--steps", help="Sampling steps. Default: the recipe's.")]
GuidanceOption = Annotated[float | None, typer.Option("--guidance", help="Guidance scale. Default: the recipe's.")]
TemplatesOption = Annotated[
    str | None,
    typer.Option(
        "--templates",
        help="Also draw trained captions in templates: a YAML or JSON file with lists under en and zh, or 'untrained' for "
        "those that the embedded pair is judged by.",
    ),
]
KeywordsOption = Annotated[bool, typer.Option("--keywords", help="Also draw rows by one of their keywords.")]
StyleScaleOption = Annotated[
    float, typer.Option("--style-scale", help="Scale at which a row's style is asked for, where the recipe knows it.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of the choice of prompts and of the noise.")]


def register(app: typer.Typer) -> None:
    """Add this part's commands to `app`."""
    app.command()(evaluate)
    app.command()(pair_matrix)
    app.command()(boundary)


def evaluate(
    card: CardArgument,
    structure: Annotated[
        str | None,
        typer.Option(
            help="The structure generator: its folder, a pair, a run, or latest.", autocompletion=complete.runs
        ),
    ] = None,
    texture: Annotated[
        str | None,
        typer.Option(help="The texture generator: its folder, a pair, a run, or latest.", autocompletion=complete.runs),
    ] = None,
    encode_id: Annotated[
        str | None,
        typer.Option(help="Which encoded dataset, or latest.", autocompletion=complete.encodings),
    ] = None,
    pair: Annotated[
        str | None,
        typer.Option(help="Instead of those three: a pair (folder, or name in the home) or 'embedded', as it is."),
    ] = None,
    middle: Annotated[
        list[Path] | None, typer.Option(help="An expert between the two, the noisiest first; may be given again.")
    ] = None,
    version: VersionOption = LATEST,
    recipe: RecipeOption = "demo",
    split: SplitOption = None,
    prompts: PromptsOption = "24",
    candidates: CandidatesOption = None,
    metrics: MetricsOption = None,
    inception: InceptionOption = None,
    clip: ClipOption = None,
    cn_clip: CnClipOption = None,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    seed: SeedOption = 1234,
    templates: TemplatesOption = None,
    keywords: KeywordsOption = False,
    style_scale: StyleScaleOption = 1.0,
    on_ray: OnRayOption = False,
    workers: WorkersOption = None,
    gpus: GpusOption = 1.0,
    result: ResultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Assemble a pair, or take a whole one, and measure it by the evaluation protocol."""
    from pangu.config import MIDDLE_ROLES
    from pangu.data.card import load_card
    from pangu.data.encode.encoded import EncodedManifest
    from pangu.evaluate.evaluation import as_sampled, evaluate_whole
    from pangu.evaluate.evaluation import evaluate as run
    from pangu.evaluate.metrics import load_judges
    from pangu.exchange.places import generator_folder
    from pangu.progress import print_progress
    from pangu.recipes import recipe as named
    from pangu.storage import Home

    dataset, home, chosen = load_card(card).name, Home.from_environment(), named(recipe)
    judges = load_judges(inception, clip, cn_clip)
    asked = (split, prompts, candidates, metrics, steps, guidance, seed, templates, keywords, style_scale)
    spread = spread_of(on_ray, workers, gpus)
    if pair is not None:
        if structure or texture or middle or encode_id:
            raise UserError("--pair is measured as it is; leave out --structure, --texture and --encode-id.")
        if on_ray:
            raise UserError(
                "--pair is measured by this process; leave out --on-ray, or name its two generators instead."
            )
        whole = _whole(pair)
        number = version_of(home, dataset, version)
        protocol = _protocol(as_sampled(chosen, whole), home, dataset, number, judges, *asked)
        outcome = evaluate_whole(whole, pair, home, dataset, number, protocol, judges, print_progress)
    elif structure is None or texture is None or encode_id is None:
        raise UserError("Name --structure, --texture and --encode-id, or a whole --pair.")
    else:
        encode_id = encode_id_of(home, dataset, encode_id)
        halves = generator_folder(structure, "structure", home), generator_folder(texture, "texture", home)
        number = EncodedManifest.load(home.encoded(dataset, encode_id)).version
        protocol = _protocol(chosen, home, dataset, number, judges, *asked)
        given = *halves, chosen, dataset, encode_id, home
        between = [generator_folder(one, role, home) for one, role in zip(middle or (), MIDDLE_ROLES, strict=False)]
        outcome = run(*given, print_progress, protocol, judges, spread, between)
    finish(outcome, result, as_json)


def pair_matrix(
    card: CardArgument,
    structure: Annotated[
        list[Path], typer.Option(help="A structure generator: folder, pair or run; may be given again.")
    ],
    texture: Annotated[list[Path], typer.Option(help="A texture generator: folder, pair or run; may be given again.")],
    middle: Annotated[
        list[Path] | None,
        typer.Option(help="An expert between the two, where there are any; several of one interval are compared."),
    ] = None,
    encode_id: EncodeIdOption = LATEST,
    recipe: RecipeOption = "demo",
    champion: Annotated[
        bool, typer.Option("--champion", help="Also both halves of the pair that is released.")
    ] = False,
    rank_by: Annotated[str | None, typer.Option(help="Which measured number ranks pairs.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where table and picture go. Default: in the home.")] = None,
    split: SplitOption = None,
    prompts: PromptsOption = "24",
    candidates: CandidatesOption = None,
    metrics: MetricsOption = None,
    inception: InceptionOption = None,
    clip: ClipOption = None,
    cn_clip: CnClipOption = None,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    seed: SeedOption = 1234,
    templates: TemplatesOption = None,
    keywords: KeywordsOption = False,
    style_scale: StyleScaleOption = 1.0,
    on_ray: OnRayOption = False,
    workers: WorkersOption = None,
    gpus: GpusOption = 1.0,
    result: ResultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score every structure with every texture generator and propose the best pair."""
    from pangu.config import ROLES
    from pangu.data.card import load_card
    from pangu.data.encode.encoded import EncodedManifest
    from pangu.evaluate.matrix import matrix as run
    from pangu.evaluate.metrics import load_judges
    from pangu.exchange.places import generator_folder
    from pangu.progress import print_progress
    from pangu.recipes import recipe as named
    from pangu.registry.fetch import fetch_halves, unlike
    from pangu.registry.tracking import CHAMPION
    from pangu.storage import Home

    dataset, home, chosen = load_card(card).name, Home.from_environment(), named(recipe)
    judges = load_judges(inception, clip, cn_clip)
    asked = (split, prompts, candidates, metrics, steps, guidance, seed, templates, keywords, style_scale)
    spread = spread_of(on_ray, workers, gpus)
    encode_id = encode_id_of(home, dataset, encode_id)
    number = EncodedManifest.load(home.encoded(dataset, encode_id)).version
    protocol = _protocol(chosen, home, dataset, number, judges, *asked)
    target = folder or home.dataset(dataset) / "matrix" / protocol.digest()
    structures = [generator_folder(one, "structure", home) for one in structure]
    textures = [generator_folder(one, "texture", home) for one in texture]
    middles = [generator_folder(one, None, home) for one in middle or ()]
    if champion:
        released = fetch_halves(CHAMPION, home.root / "fetched")
        structures += unlike(structures, released["structure"])
        textures += unlike(textures, released["texture"])
        for role in released.keys() - set(ROLES):
            middles += unlike(middles, released[role])
    outcome = run(
        structures,
        textures,
        chosen,
        dataset,
        encode_id,
        home,
        target,
        print_progress,
        protocol,
        judges,
        rank_by,
        spread,
        middles,
    )
    finish(outcome, result, as_json)


def boundary(
    card: CardArgument,
    generator: Annotated[
        list[str],
        typer.Option(
            help="Generator of the probe: folder, run, or latest; give two for the halves of a pair.",
            autocompletion=complete.runs,
        ),
    ],
    recipe: RecipeOption = "demo",
    version: VersionOption = LATEST,
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
    from pangu.evaluate.boundary_probe import find_boundary
    from pangu.exchange.places import generator_folder
    from pangu.progress import print_progress
    from pangu.recipes import recipe as named
    from pangu.storage import Home

    read, home = load_card(card), Home.from_environment()
    target = folder or home.dataset(read.name) / "boundary"
    probes = [generator_folder(one, None, home) for one in generator]
    pinned = version_of(home, read.name, version)
    outcome = find_boundary(read, probes, named(recipe), home, target, pinned, images, visible, report=print_progress)
    finish(outcome, result, as_json)


def _protocol(
    recipe: "Recipe",
    home: "Home",
    dataset: str,
    version: int,
    judges: "Judges",
    split: str | None,
    prompts: str,
    candidates: int | None,
    metrics: str | None,
    steps: int | None,
    guidance: float | None,
    seed: int,
    templates: str | None,
    keywords: bool,
    style_scale: float,
) -> "Protocol":
    """The protocol that the options ask for.

    Raises:
        UserError: an option is out of its range.
    """
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
    if not 0 < style_scale <= 50:
        raise UserError(f"--style-scale must lie above 0 and at most at 50, not {style_scale}.")
    changes: dict[str, object] = {"prompts_per_language": None if prompts == "all" else int(prompts), "seed": seed}
    changes |= {"templates": templates_from(templates), "keywords": keywords, "candidates": candidates}
    if steps is not None:
        changes["num_inference_steps"] = steps
    if guidance is not None:
        changes["guidance_scale"] = guidance
    named = None if metrics is None else [name.strip() for name in metrics.split(",") if name.strip()]
    return plan(recipe, home, dataset, version, judges, split, named, style_scale, **changes)  # type: ignore[arg-type]


def _whole(source: str) -> "PanGuDrawPipeline":
    """A pair as it is: the embedded one, or that of a pair folder or of a pair's name in the home.

    Raises:
        UserError: nothing of the kind is there.
    """
    from pangu.exchange.places import pair_folder
    from pangu.pipelines.experts_pipeline import load_pair
    from pangu.starter.pair import starter_pair
    from pangu.storage import Home

    if source == "embedded":
        return starter_pair()
    return load_pair(pair_folder(source, Home.from_environment(), "'embedded', or "))


def templates_from(source: str | None) -> dict[str, tuple[str, ...]]:
    """Language -> templates: of a file, of the embedded pair's judgement ('untrained'), or none.

    Raises:
        UserError: the file is not readable, or holds anything but lists of templates under languages.
    """
    from pangu.data import wording
    from pangu.data.captions import LANGUAGES
    from pangu.sentences import UNTRAINED_TEMPLATES

    if source is None:
        return {}
    if source == "untrained":
        return dict(UNTRAINED_TEMPLATES)
    try:
        found = yaml.safe_load(Path(source).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--templates: {source} is not readable: {' '.join(str(error).split())}.") from error
    lists = found.values() if isinstance(found, dict) else [None]
    if not all(isinstance(own, list) and own and all(isinstance(text, str) for text in own) for own in lists):
        raise UserError(f"--templates: {source} must hold lists of templates under en, zh or both.")
    if unknown := [language for language in found if language not in LANGUAGES]:
        raise UserError(f"--templates: {source} has templates in '{unknown[0]}'; captions are in en and zh.")
    for template in (text for own in found.values() for text in own):
        if trouble := wording.trouble(template):
            raise UserError(f"--templates: '{template}' {trouble}.")
    return {language: tuple(own) for language, own in found.items()}
