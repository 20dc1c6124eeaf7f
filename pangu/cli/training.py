"""`pangu encode`, `pangu train`, `pangu distill`: from a dataset to two generators."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

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
    dataset_of,
    encode_id_of,
    finish,
    spread_of,
    version_of,
)
from pangu.names import LATEST, resolve, runs

if TYPE_CHECKING:
    from pangu.config import Recipe


def register(app: typer.Typer) -> None:
    """Add this part's commands to `app`."""
    app.command()(encode)
    app.command()(train)
    app.command()(distill)
    app.command()(assemble)
    app.command()(recipes)


def encode(
    card: CardArgument,
    version: VersionOption = LATEST,
    recipe: RecipeOption = "demo",
    on_ray: OnRayOption = False,
    workers: WorkersOption = None,
    gpus: GpusOption = 1.0,
    result: ResultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn one dataset version into latents and text embeddings."""
    from pangu.data.encode.stage import encode as run
    from pangu.progress import print_progress
    from pangu.recipes import recipe as named
    from pangu.storage import Home

    home, spread = Home.from_environment(), spread_of(on_ray, workers, gpus)
    dataset = dataset_of(home, card)
    pinned = version_of(home, dataset, version)
    outcome = run(dataset, pinned, named(recipe), home, print_progress, spread=spread)
    finish(outcome, result, as_json)


def train(
    card: CardArgument,
    role: Annotated[
        str, typer.Option(help="'structure' or 'texture'; of another recipe, one of its jobs, e.g. 'single'.")
    ],
    encode_id: EncodeIdOption = LATEST,
    recipe: RecipeOption = "demo",
    run_name: Annotated[str | None, typer.Option(help="Default: follows from data and recipe.")] = None,
    continue_run: Annotated[
        str | None,
        typer.Option(
            help="Go on with a run (its name, a beginning of it, or latest) under the recipe's optimization and steps, and "
            "record it.",
            autocompletion=complete.runs,
        ),
    ] = None,
    result: ResultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train one generator on its own timesteps, with Ray Train; the other generator is another job."""
    from pangu.recipes import recipe as named

    _train(card, role, encode_id, named(recipe), run_name, continue_run, result, as_json)


def distill(
    card: CardArgument,
    role: Annotated[
        str, typer.Option(help="'structure' or 'texture'; the other half is another job, or stays as it is.")
    ],
    encode_id: EncodeIdOption = LATEST,
    teacher: Annotated[
        str, typer.Option(help="The pair that is distilled: 'embedded', a folder, or models:/pangu-pair@champion.")
    ] = "embedded",
    student_steps: Annotated[int, typer.Option(min=1, max=50, help="Sampling steps that the half will need.")] = 2,
    recipe: RecipeOption = "demo",
    run_name: Annotated[str | None, typer.Option(help="Default: follows from data and recipe.")] = None,
    result: ResultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Teach one half to draw its interval in few steps, guidance built in; --recipe is that of the teacher's networks."""
    from pangu.recipes import recipe as named
    from pangu.recipes import student_of

    students = student_of(named(recipe), teacher, student_steps)
    _train(card, role, encode_id, students, run_name, None, result, as_json)


def _train(
    card: str,
    role: str,
    encode_id: str,
    wanted: "Recipe",
    run_name: str | None,
    continue_run: str | None,
    result: Path | None,
    as_json: bool,
) -> None:
    """One job of a recipe.

    Raises:
        UserError: the recipe has no such job, or nothing is called so.
    """
    from pangu.config import Role
    from pangu.data.card import load_card
    from pangu.errors import UserError
    from pangu.progress import for_machines, print_progress
    from pangu.registry.fetch import registered_pair
    from pangu.storage import Home
    from pangu.train.continuing import continued
    from pangu.train.launch import train as run

    if role not in wanted.roles:
        raise UserError(f"--role of recipe '{wanted.name}' must be one of {', '.join(wanted.roles)}, not '{role}'.")
    home, dataset = Home.from_environment(), load_card(card).name
    encode_id = encode_id_of(home, dataset, encode_id)
    if continue_run is not None:
        continue_run = resolve(continue_run, runs(home, role), "run", "pangu train")
        run_name = continued(home, continue_run, run_name, role, encode_id, wanted)
    fetched = partial(registered_pair, cache_dir=home.root / "fetched")
    # The workers' own lines are for machines; a person is shown what they leave in the run's history.
    report = None if for_machines() else print_progress
    outcome = run(cast(Role, role), dataset, encode_id, wanted, home, run_name, fetched, report)
    finish(outcome, result, as_json)


def assemble(
    generator: Annotated[
        str,
        typer.Argument(
            help="What `pangu train --role single` made: its folder, a run, or latest.", autocompletion=complete.runs
        ),
    ],
    folder: Annotated[Path, typer.Option(help="Where to put the pipeline folder.")],
    recipe: RecipeOption = "single",
    result: ResultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Join a generator for all timesteps and its encoders into a pipeline folder, e.g. a partner for `pangu coop`."""
    from pangu.exchange.places import generator_folder
    from pangu.pipelines.partners import partner_folder
    from pangu.recipes import recipe as named
    from pangu.storage import Home

    made = generator_folder(generator, None, Home.from_environment())
    finish(partner_folder(made, named(recipe), folder), result, as_json)


def recipes(name: Annotated[str | None, typer.Argument(help="Show one recipe as JSON.")] = None) -> None:
    """List the recipes, or show one completely."""
    from pangu.recipes import RECIPES
    from pangu.recipes import recipe as named

    if name is not None:
        finish(named(name), None, as_json=True)
        return
    for known, make in RECIPES.items():
        typer.echo(f"{known:16} {(make.__doc__ or '').strip()}")
