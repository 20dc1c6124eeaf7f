"""`pangu samples-seen`: which rows a checkpoint has seen."""

from typing import Annotated, Literal

import typer

from pangu.cli import complete


def register(app: typer.Typer) -> None:
    """Add this part's commands to `app`."""
    app.command()(samples_seen)


def samples_seen(
    run: Annotated[
        str,
        typer.Argument(
            help="A training run: its name, a beginning of it, its role, or latest.",
            autocompletion=complete.runs,
        ),
    ],
    step: Annotated[int | None, typer.Option(min=0, help="Default: the step of the newest checkpoint.")] = None,
    output: Annotated[Literal["json", "csv"], typer.Option("--format", help="json or csv.")] = "json",
    count: Annotated[bool, typer.Option("--count", help="Only the totals, also per bucket and per dataset.")] = False,
    captions: Annotated[bool, typer.Option("--captions", help="Also the captions of each row.")] = False,
) -> None:
    """List which rows a checkpoint has seen, and how often; also while the run trains."""
    from pangu.names import resolve, runs
    from pangu.storage import Home
    from pangu.train.job import captions_of, find_job
    from pangu.train.samples_seen import as_csv, as_json, seen

    home = Home.from_environment()
    found = seen(find_job(home, resolve(run, runs(home), "run", "pangu train")), step)
    texts = captions_of(found.job, set(found.keys)) if captions and not count else None
    rows = None if count else found.rows(texts)
    print((as_json if output == "json" else as_csv)(found.totals(), rows))
