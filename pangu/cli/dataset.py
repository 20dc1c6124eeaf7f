"""`pangu dataset ...`: look at the versions of a dataset, select again, export, clean up."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pangu.cli import complete
from pangu.cli.common import JsonOption, ResultOption, VersionOption, finish, version_of
from pangu.errors import UserError
from pangu.names import LATEST
from pangu.progress import print_progress
from pangu.storage import Home, write_json

NameArgument = Annotated[
    str, typer.Argument(help="Name of the dataset: that of its card.", autocompletion=complete.datasets)
]


def register(app: typer.Typer) -> None:
    """Add this part's commands to `app`."""
    dataset = typer.Typer(help="Look at and work on the versions of a dataset.", no_args_is_help=True)
    for command in (log, show, diff, refilter, export, push, vacuum):
        dataset.command()(command)
    app.add_typer(dataset, name="dataset")


def log(name: NameArgument) -> None:
    """Every version, newest first, one JSON line each."""
    from pangu.data.table.versions import log

    for entry in log(Home.from_environment(), name):
        print(entry.model_dump_json())


def show(
    name: NameArgument, version: VersionOption = LATEST, result: ResultOption = None, as_json: JsonOption = False
) -> None:
    """Counts and distributions of one version."""
    from pangu.data.table.versions import show

    home = Home.from_environment()
    finish(show(home, name, version_of(home, name, version)), result, as_json)


def diff(
    name: NameArgument,
    old: Annotated[str, typer.Argument(help="A version.", autocompletion=complete.versions)],
    new: Annotated[str, typer.Argument(help="Another one, or latest.", autocompletion=complete.versions)] = LATEST,
    result: ResultOption = None,
    as_json: JsonOption = False,
) -> None:
    """What was added, removed and changed between two versions."""
    from pangu.data.table.versions import diff

    home = Home.from_environment()
    finish(diff(home, name, version_of(home, name, old), version_of(home, name, new)), result, as_json)


def refilter(
    card: Annotated[
        str, typer.Argument(help="The card with its new thresholds or splits; with --set also the name of a dataset.")
    ],
    version: VersionOption = LATEST,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="FILTER=VALUE over the version's own card, e.g. max_aspect=2; may be given again."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be kept, and what would come and go.")
    ] = False,
    result: ResultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Select again by the thresholds and splits that the card says now; nothing is decoded, scored or upscaled again."""
    from pangu.data.prepare.refilter import refilter
    from pangu.data.prepare.threshold_changes import changed_card
    from pangu.data.prepare.what_if import preview

    home = Home.from_environment()
    parsed, chosen = changed_card(home, card, lambda name: version_of(home, name, version), changes or ())
    outcome = preview(parsed, home, chosen) if dry_run else refilter(parsed, home, chosen, print_progress)
    finish(outcome, result, as_json)


def export(
    name: NameArgument,
    webdataset: Annotated[Path | None, typer.Option(help="Folder for tar archives, as webdataset reads them.")] = None,
    parquet: Annotated[
        Path | None, typer.Option(help="Folder for Parquet, as Hugging Face's datasets reads it.")
    ] = None,
    version: VersionOption = LATEST,
    rows_per_archive: Annotated[int, typer.Option(min=1, help="Rows of one file.")] = 1000,
    result: ResultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write one version for others, as webdataset archives or as Parquet: image, captions and facts of every row."""
    from pangu.data.table.export import export_parquet, export_webdataset

    folder, write = (parquet, export_parquet) if webdataset is None else (webdataset, export_webdataset)
    if folder is None or None not in (webdataset, parquet):
        raise UserError("Name one folder to export to: --webdataset FOLDER for archives, or --parquet FOLDER.")
    home = Home.from_environment()
    outcome = write(home, name, version_of(home, name, version), folder, rows_per_archive, print_progress)
    finish(outcome, result, as_json)


def push(
    name: NameArgument,
    repository: Annotated[str, typer.Argument(help="OWNER/NAME on the hub; made if it is not there.")],
    version: VersionOption = LATEST,
    licence: Annotated[str | None, typer.Option("--licence", help="Of the whole. Default: that of the card.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Only for its owner, if it is made.")] = False,
    endpoint: Annotated[str | None, typer.Option("--endpoint", help="Another hub. Default: HF_ENDPOINT.")] = None,
    result: ResultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish one version on the hub: Parquet by split that shows its pictures, and a card with licence and statistics."""
    from pangu.exchange.push import push_dataset

    home = Home.from_environment()
    finish(
        push_dataset(
            home, name, repository, version_of(home, name, version), licence, private, endpoint, report=print_progress
        ),
        result,
        as_json,
    )


def vacuum(
    name: NameArgument,
    keep: Annotated[int, typer.Option(min=1, help="So many of the newest versions stay readable.")] = 5,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    result: ResultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete the files of older versions, and what they rejected."""
    from pangu.data.table.versions import vacuum

    gone = vacuum(Home.from_environment(), name, keep, dry_run)
    outcome = {"dataset": name, "kept_versions": keep, "deleted_files": len(gone), "dry_run": dry_run}
    if result is not None:
        write_json(result, outcome)
    print(json.dumps(outcome))
