"""What every stage command shares: the `--result` file, and the outcome on standard output."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel

from pangu.cli import complete
from pangu.cli.next_step import say_next
from pangu.errors import UserError
from pangu.names import LATEST, encodings, resolve
from pangu.progress import print_progress
from pangu.storage import Home, write_atomically

if TYPE_CHECKING:
    from pangu.actors import Spread

CardArgument = Annotated[
    str,
    typer.Argument(help="A dataset card: a path, or the name of a file in datasets/.", autocompletion=complete.cards),
]
RecipeOption = Annotated[
    str,
    typer.Option(
        "--recipe",
        help="Which recipe, e.g. 'demo', or a .json or .yaml file of one.",
        autocompletion=complete.recipes,
    ),
]
ResultOption = Annotated[
    Path | None, typer.Option("--result", help="Also write the outcome as JSON to this file, atomically.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the outcome as JSON, as is done wherever output is no terminal.")
]
EncodeIdOption = Annotated[
    str,
    typer.Option(
        "--encode-id",
        help="Which encoded dataset: its id, as `pangu encode` printed it, a beginning of it, or latest.",
        autocompletion=complete.encodings,
    ),
]
IngestIdOption = Annotated[
    str,
    typer.Option(
        "--ingest-id",
        help="Which ingest: its id, as `pangu ingest` printed it, a beginning of it, or latest.",
        autocompletion=complete.ingests,
    ),
]
VersionOption = Annotated[
    str,
    typer.Option("--version", help="Version of the dataset, or latest.", autocompletion=complete.versions),
]
OnRayOption = Annotated[
    bool, typer.Option("--on-ray", help="Compute on all devices of the cluster that RAY_ADDRESS names.")
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, help="With --on-ray: how many compute. Default: as its GPUs carry; one without any."
    ),
]
GpusOption = Annotated[
    float,
    typer.Option("--gpus", help="With --on-ray: GPUs a worker, where there are any; 0.5: two workers share one."),
]


def spread_of(on_ray: bool, workers: int | None, gpus: float) -> "Spread":
    """Where a stage computes, as its options say.

    Raises:
        UserError: workers without a cluster, or a share that no GPU has.
    """
    from pangu.actors import Spread

    if workers is not None and not on_ray:
        raise UserError("--workers are those of a cluster; add --on-ray, or leave them out to compute in this process.")
    if not (0 < gpus <= 1 or gpus == int(gpus) > 0):
        raise UserError(f"--gpus must be a share of one GPU, such as 0.5, or a whole number of them, not {gpus:g}.")
    return Spread(on_ray=on_ray, workers=workers, gpus=gpus)


def encode_id_of(home: Home, dataset: str, asked: str) -> str:
    """The id of the encoded dataset that an option names.

    Raises:
        UserError: there is none, or it may be several.
    """
    return resolve(asked, encodings(home, dataset), "encoded dataset", f"pangu encode {dataset}")


def dataset_of(home: Home, card: str) -> str:
    """The dataset of a card; or the one of this name that is there, whose card lies elsewhere or is gone.

    Raises:
        UserError: there is neither, or the card is bad.
    """
    from pangu.data.card import DATASET_NAME, find_card, load_card

    try:
        path = find_card(card)
    except UserError:
        if re.fullmatch(DATASET_NAME, card) and _has_version(home, card):
            return card
        raise
    return load_card(path).name


def _has_version(home: Home, dataset: str) -> bool:
    from pangu.data.table.delta import latest_version

    try:
        return latest_version(home, dataset) >= 0
    except UserError:
        return False


def version_of(home: Home, dataset: str, asked: str | int) -> int:
    """The version of a dataset that an option names, which may lie in object storage.

    Raises:
        UserError: it is no number and not `latest`, or the dataset has no version.
    """
    from pangu.data.table.delta import latest_version

    if asked == LATEST:
        return latest_version(home, dataset)
    if not (str(asked).isascii() and str(asked).isdecimal()):
        newest = latest_version(home, dataset)
        raise UserError(f"--version must be {LATEST} or a number from 0 to {newest}, not '{asked}'.")
    return int(asked)


def finish(outcome: BaseModel, result: Path | None, as_json: bool = False) -> None:
    """Print the outcome of a stage, alone on standard output, and leave it as JSON in a file where asked.

    It is printed as JSON for programs, and as one line for each field on a terminal. Its warnings go to standard error too.
    """
    print_progress.close()
    for sentence in getattr(outcome, "warnings", ()):
        print(f"pangu: warning: {sentence}", file=sys.stderr)
    text = outcome.model_dump_json(indent=2)
    if result is not None:
        write_atomically(result, text.encode())
    print(text if as_json or not sys.stdout.isatty() else readable(outcome.model_dump(mode="json")))
    say_next(outcome)


def readable(values: dict[str, Any]) -> str:
    """One line for each value, names of nested ones joined by dots; what is empty is left out."""
    lines = list(_lines(values))
    width = max((len(name) for name, _ in lines), default=0)
    return "\n".join(f"{name:{width}}  {value}" for name, value in lines)


def _lines(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _lines(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            if value:
                yield f"{prefix}{name}", ", ".join(str(one) for one in value)
        elif value not in (None, ""):
            yield f"{prefix}{name}", f"{value:.6g}" if isinstance(value, float) else str(value)
