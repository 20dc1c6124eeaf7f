"""`pangu import`, `quantise`, `export` and `push`: from pipelines of others, in fewer bits, to their programs, and to the hub."""

from pathlib import Path
from typing import Annotated

import typer

from pangu.cli.common import JsonOption, ResultOption, finish


def register(app: typer.Typer) -> None:
    """Add this part's commands to `app`."""
    app.command("import")(import_)
    app.command()(quantise)
    app.command()(export)
    app.command()(push)


def import_(
    pipeline: Annotated[str, typer.Argument(help="A pipeline folder as diffusers saves it.")],
    name: Annotated[str, typer.Argument(help="What the pair is called in the home.")],
    boundary: Annotated[
        int | None, typer.Option("--boundary", help="Timestep at which it is split; both halves start from it.")
    ] = None,
    refiner: Annotated[
        str | None, typer.Option("--refiner", help="A second pipeline folder, whose network becomes the texture half.")
    ] = None,
    handover: Annotated[
        float, typer.Option("--handover", help="With --refiner: share of the steps before it takes over.")
    ] = 0.8,
    resolution: Annotated[
        int | None,
        typer.Option("--resolution", min=8, help="Side of the pictures of a transformer that does not say it, px."),
    ] = None,
    weights: Annotated[
        list[Path] | None,
        typer.Option(
            "--weights",
            help="A single file in the original layout, in place of the folder's weights; again for the texture half.",
        ),
    ] = None,
    told_guidance: Annotated[
        float | None,
        typer.Option(
            "--told-guidance",
            min=0,
            help="Scale that a guidance-distilled network is told (FLUX.1-dev). Default: what its pipeline tells it.",
        ),
    ] = None,
    result: ResultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Open a pipeline of others as a pair, with contracts, and leave a recipe beside it that trains its halves."""
    from pangu.exchange.import_pair import import_pair
    from pangu.models.sources import without_bars
    from pangu.storage import Home

    without_bars()
    home = Home.from_environment()
    made = import_pair(
        pipeline,
        name,
        home,
        boundary,
        refiner,
        handover,
        resolution,
        told_guidance,
        [str(file) for file in weights or ()],
    )
    finish(made, result, as_json)


def quantise(
    source: Annotated[
        str, typer.Argument(help="A pair: folder, name in the home, models:/pangu-pair@champion, or embedded.")
    ],
    name: Annotated[str, typer.Argument(help="What the quantised pair is called in the home.")],
    kind: Annotated[
        str, typer.Option("--kind", help="int8 (any device), fp8 or nf4 (CUDA devices that have them).")
    ] = "int8",
    half: Annotated[
        list[str] | None, typer.Option("--half", help="Only this half; may be given again. Default: all.")
    ] = None,
    result: ResultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a pair of another one whose linear layers keep their weights in fewer bits; it is evaluated and released like any."""
    from typing import get_args

    from pangu.contract import Quantised
    from pangu.errors import UserError
    from pangu.exchange.places import role_of
    from pangu.exchange.quantise_pair import quantise_pair
    from pangu.models.sources import without_bars
    from pangu.storage import Home

    if kind not in get_args(Quantised):
        raise UserError(f"--kind must be one of {', '.join(get_args(Quantised))}, not '{kind}'.")
    without_bars()
    halves = [role_of(each) for each in half or []]
    finish(quantise_pair(source, name, Home.from_environment(), kind, halves), result, as_json)  # type: ignore[arg-type]


def export(
    source: Annotated[
        str,
        typer.Argument(
            help="A pair: folder, name in the home or models:/pangu-pair@champion; or a run or generator folder."
        ),
    ],
    folder: Annotated[Path, typer.Argument(help="A new folder for what is written.")],
    original: Annotated[
        bool, typer.Option("--original", help="Also one file for each half, in the layout of the original code.")
    ] = False,
    adapter: Annotated[
        list[Path] | None, typer.Option("--adapter", help="An adapter (LoRA) to write with it; may be given again.")
    ] = None,
    role: Annotated[
        str | None,
        typer.Option("--role", help="The half that adapters without a contract are for: structure or texture."),
    ] = None,
    result: ResultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write halves and adapters as other programs open them: diffusers' components, single files, kohya's adapters."""
    from pangu.errors import UserError
    from pangu.exchange.export_pair import export_generator_folder, export_pair
    from pangu.exchange.places import generator_folder, pair_folder, role_of
    from pangu.storage import Home

    home, adapters = Home.from_environment(), adapter or []
    half = role_of(role) if role else None
    try:
        pair = pair_folder(source, home)
    except UserError:
        generator = generator_folder(source, half or "structure", home)
        finish(export_generator_folder(generator, folder, original, adapters), result, as_json)
    else:
        finish(export_pair(pair, folder, original, adapters, half), result, as_json)


def push(
    pair: Annotated[str, typer.Argument(help="A pair: folder, name in the home, or models:/pangu-pair@champion.")],
    repository: Annotated[str, typer.Argument(help="OWNER/NAME on the hub; made if it is not there.")],
    licence: Annotated[
        str | None, typer.Option("--licence", help="Of the model. Default: that of the card of its data.")
    ] = None,
    metrics: Annotated[Path | None, typer.Option("--metrics", help="The outcome of `pangu evaluate`, as JSON.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Only for its owner, if it is made.")] = False,
    endpoint: Annotated[str | None, typer.Option("--endpoint", help="Another hub. Default: HF_ENDPOINT.")] = None,
    card_only: Annotated[bool, typer.Option("--card-only", help="Print the model card and send nothing.")] = False,
    result: ResultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish a pair on the hub with a model card: intervals, data, licence, figures, pictures."""
    from pangu.errors import UserError
    from pangu.exchange.model_card import licence_of, model_card, pair_contracts_of
    from pangu.exchange.places import pair_folder
    from pangu.exchange.push import push_pair
    from pangu.exchange.widget_pictures import widget_pictures
    from pangu.storage import Home, read_json

    found = pair_folder(pair, Home.from_environment())
    try:
        outcome = read_json(metrics) if metrics else {"metrics": {}}
        measured, grid = outcome["metrics"], Path(outcome["sample_grid"]) if outcome.get("sample_grid") else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{metrics} is not the outcome of `pangu evaluate`; pass its --result.") from error
    if card_only:
        shown = widget_pictures(grid)
        typer.echo(model_card(found, repository, licence_of(pair_contracts_of(found), licence), measured, shown))
        return
    finish(push_pair(found, repository, licence, measured, private, endpoint, grid=grid), result, as_json)
