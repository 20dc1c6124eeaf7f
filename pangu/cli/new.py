"""`pangu new`: from a folder or a table of pictures to a dataset card."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pangu.cli.common import JsonOption, ResultOption, finish
from pangu.errors import UserError
from pangu.progress import print_progress
from pangu.storage import Home, write_atomically

if TYPE_CHECKING:
    from pangu.data.propose.stage import NewCard, Proposal


def register(app: typer.Typer) -> None:
    """Add this part's command to `app`."""
    app.command()(new)


def new(
    place: Annotated[
        Path,
        typer.Argument(metavar="FOLDER|TABLE", help="A folder of pictures, archives or tables, or one such file."),
    ],
    name: Annotated[str | None, typer.Argument(help="Of the card. Default: that of the folder or table.")] = None,
    licence: Annotated[
        str | None,
        typer.Option(help="Under what terms the pictures may be used, e.g. 'CC BY 4.0' or 'my own'; asked if missing."),
    ] = None,
    attribution: Annotated[str, typer.Option(help="Who must be named where they are shown.")] = "",
    start: Annotated[
        str | None,
        typer.Option(
            help="'embedded', 'nothing', or a model (folder or hub id) to adapt. Default: from pictures and device."
        ),
    ] = None,
    captioner: Annotated[
        str | None, typer.Option(help="A model (folder or hub id) that describes pictures without a caption.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Take everything as proposed, without asking.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a card of that name.")] = False,
    result: ResultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look at pictures of your own, and propose their card, recipe and start: `datasets/NAME.yaml`."""
    asks = sys.stdin.isatty() and not yes
    if not asks and not (yes and licence):
        lacking = (
            "--licence, because nobody can guess it"
            if yes
            else "--yes and --licence, because nobody is there to be asked"
        )
        raise UserError(f"Add {lacking}, e.g. --yes --licence 'CC BY 4.0' or --licence 'my own'.")
    from pangu.data.card import Licence
    from pangu.data.propose.stage import propose, write_proposal
    from pangu.models.devices import gpu_gib

    home = Home.from_environment()
    proposal = propose(place, name, home, start, captioner, gpu_gib(), force, print_progress)
    print_progress.close()
    to_people = sys.stdout.isatty() and not as_json
    _say(proposal, to_people)
    if not licence:
        licence = typer.prompt("Licence of the pictures, e.g. CC BY 4.0, or 'my own'", err=not to_people).strip()
    if asks and not typer.confirm(f"Write datasets/{proposal.name}.yaml?", default=True, err=not to_people):
        raise UserError("Nothing was written; other choices are named by --start, --captioner and a NAME.")
    made = write_proposal(proposal, Licence(name=licence, attribution=attribution), home, force)
    _show(made, to_people)
    if not to_people:
        finish(made, result, as_json=True)
    elif result is not None:
        write_atomically(result, made.model_dump_json(indent=2).encode())


def _say(proposal: "Proposal", to_people: bool) -> None:
    where = sys.stdout if to_people else sys.stderr
    for sentence in proposal.sentences:
        print(sentence, file=where)
    for sentence in proposal.warnings if to_people else ():  # `finish` says them otherwise
        print(f"Note: {sentence}", file=where)
    if proposal.sheet is not None:
        print(f"Some of them, with their captions: {proposal.sheet}", file=where)


def _show(made: "NewCard", to_people: bool) -> None:
    where = sys.stdout if to_people else sys.stderr
    beside = f", and its recipe {made.recipe}" if made.recipe.endswith(".json") else ""
    print(f"Written: {made.card}{beside}. Look it through; each choice has its reason beside it.", file=where)
    print("From here to a served pair, or stage by stage:", file=where)
    print(f"\n    {made.next_command}\n    pangu ingest {made.dataset}\n", file=where)
