"""`pangu release`, `deploy`, `rollback` and `serve`: from a pair folder to a served model."""

from pathlib import Path
from typing import Annotated

import typer

from pangu.cli import complete
from pangu.cli.common import JsonOption, ResultOption, finish


def release(
    pair: Annotated[
        str,
        typer.Option(
            "--pair", help="Pair: folder, id, or latest; as `pangu evaluate` reports it", autocompletion=complete.pairs
        ),
    ],
    structure: Annotated[
        str,
        typer.Option(
            "--structure", help="Its structure generator: folder, run, or latest", autocompletion=complete.runs
        ),
    ],
    texture: Annotated[
        str,
        typer.Option("--texture", help="Its texture generator: folder, run, or latest", autocompletion=complete.runs),
    ],
    metrics: Annotated[Path, typer.Option("--metrics", help="The outcome of `pangu evaluate`, as JSON")],
    alias: Annotated[str, typer.Option("--alias", help="Alias that moves to the new version")] = "champion",
    middle: Annotated[
        list[Path] | None,
        typer.Option("--middle", help="Folder of an expert between the two, the noisiest first; may be given again"),
    ] = None,
    result: ResultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register a pair and its generators in MLflow, and point an alias at it."""
    from pangu.config import MIDDLE_ROLES
    from pangu.errors import UserError
    from pangu.exchange.places import generator_folder, pair_folder
    from pangu.progress import print_progress
    from pangu.registry import release as register_pair
    from pangu.storage import Home, read_json

    try:
        outcome = read_json(metrics)
    except (OSError, ValueError) as error:
        raise UserError(f"{metrics} is not a readable JSON file; pass the --result of `pangu evaluate`.") from error
    if not isinstance(outcome, dict):
        raise UserError(f"{metrics} does not hold the outcome of `pangu evaluate`; pass its --result.")
    home = Home.from_environment()
    folders = (
        pair_folder(pair, home),
        generator_folder(structure, "structure", home),
        generator_folder(texture, "texture", home),
    )
    between = [generator_folder(place, role, home) for place, role in zip(middle or (), MIDDLE_ROLES, strict=False)]
    finish(register_pair(*folders, outcome, alias, print_progress, between), result, as_json)


def deploy(
    alias: Annotated[str, typer.Option("--alias", help="Alias of pangu-pair; resolved once")] = "champion",
    pair_version: Annotated[
        str | None, typer.Option("--pair-version", help="A fixed version instead: its number, or latest")
    ] = None,
    canary: Annotated[
        float | None,
        typer.Option("--canary", min=0.0, max=1.0, help="Share of requests it answers beside the running one"),
    ] = None,
    settings: Annotated[Path | None, typer.Option("--settings", help="JSON of ServeSettings: limits, replicas")] = None,
    result: ResultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Serve a registered pair over HTTP; a running server swaps to it without downtime."""
    from pangu.progress import print_progress
    from pangu.serve.deploy import deploy as serve_pair
    from pangu.serve.settings import read_settings
    from pangu.storage import Home

    which: str | int = alias if pair_version is None else _released(pair_version)
    chosen = None if settings is None else read_settings(settings)
    home = Home.from_environment()
    finish(serve_pair(home, which, settings=chosen, canary=canary, report=print_progress), result, as_json)


def _released(version: str) -> int:
    """The version of `pangu-pair` that an option names.

    Raises:
        UserError: it is no number and not `latest`, or nothing was released.
    """
    from pangu.names import LATEST, Named, resolve

    if version != LATEST and version.isdecimal() and version.isascii():
        return int(version)
    from pangu.registry import tracking

    found = tracking.connect().search_model_versions(f"name = '{tracking.PAIR}'")
    known = [Named(str(one.version), tuple(one.aliases), int(one.version)) for one in found]
    return int(resolve(version, known, f"version of {tracking.PAIR}", "pangu release"))


def rollback(result: ResultOption = None, as_json: JsonOption = False) -> None:
    """Go back to the release before: `champion` and `previous` change places, and the champion is served."""
    from pangu.progress import print_progress
    from pangu.registry.rollback import roll_back
    from pangu.serve.deploy import deploy as serve_pair
    from pangu.storage import Home

    version = roll_back()
    finish(serve_pair(Home.from_environment(), version, report=print_progress), result, as_json)


def serve(
    pair: Annotated[
        str | None,
        typer.Argument(
            help="A pair: folder, id or name in the home, or latest; default: the embedded starter pair",
            autocompletion=complete.pairs,
        ),
    ] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Where HTTP listens")] = 8000,
    settings: Annotated[Path | None, typer.Option("--settings", help="JSON of ServeSettings: limits, partners")] = None,
) -> None:
    """Serve a pair folder over HTTP in this one process, without Ray and without a registry."""
    from pangu.exchange.places import pair_folder
    from pangu.serve.settings import ServeSettings, read_settings
    from pangu.serve.standalone import serve as answer
    from pangu.storage import Home

    chosen = ServeSettings() if settings is None else read_settings(settings)
    home = Home.from_environment()
    folder = _starter() if pair is None else Path(pair) if Path(pair).exists() else pair_folder(pair, home)
    answer(folder, port, chosen, say=lambda sentence: typer.echo(sentence, err=True))


def _starter() -> Path:
    """The folder of the embedded pair with everything it shares, made at the first call, and for each that a package carries."""
    from pangu.models.embedded import embedded_digest
    from pangu.models.sources import without_bars
    from pangu.pipelines.assemble import save_pair
    from pangu.starter.pair import starter_pair
    from pangu.storage import Home

    folder = Home.from_environment().root / f"starter-pair-{embedded_digest()}"
    if not folder.is_dir():
        without_bars()
        save_pair(starter_pair(), folder)
    return folder


def register(app: typer.Typer) -> None:
    """Add this part's commands to `app`."""
    app.command()(release)
    app.command()(deploy)
    app.command()(rollback)
    app.command()(serve)
