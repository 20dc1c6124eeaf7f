"""`pangu distill`: from a pair of many steps to one of few."""

from functools import partial
from typing import Annotated

import typer

from pangu.cli.common import CardArgument, EncodeIdOption, JsonOption, RecipeOption, ResultOption, finish


def register(app: typer.Typer) -> None:
    """Add this part's commands to `app`."""
    app.command()(distill)


def distill(
    card: CardArgument,
    encode_id: EncodeIdOption,
    role: Annotated[
        str, typer.Option(help="'structure' or 'texture'; the other half is another job, or stays as it is.")
    ],
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
    from pangu.data.card import load_card
    from pangu.errors import UserError
    from pangu.progress import for_machines, print_progress
    from pangu.recipes import recipe as named
    from pangu.recipes import student_of
    from pangu.registry.fetch import registered_pair
    from pangu.storage import Home
    from pangu.train.launch import train

    home, wanted = Home.from_environment(), student_of(named(recipe), teacher, student_steps)
    half = next((known for known in wanted.roles if known == role), None)
    if half is None:
        raise UserError(f"--role of recipe '{recipe}' must be one of {', '.join(wanted.roles)}, not '{role}'.")
    resolve = partial(registered_pair, cache_dir=home.root / "fetched")
    report = None if for_machines() else print_progress
    outcome = train(half, load_card(card).name, encode_id, wanted, home, run_name, resolve, report)
    finish(outcome, result, as_json)
