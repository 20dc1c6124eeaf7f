"""What every stage command shares: the `--result` file and the printed outcome."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel

from pangu.storage import write_atomically

ResultOption = Annotated[
    Path | None, typer.Option("--result", help="Also write the outcome as JSON to this file, atomically.")
]


def finish(outcome: BaseModel, result: Path | None) -> None:
    """Print the outcome of a stage as JSON and, where asked, leave it in a file for whoever started the command."""
    text = outcome.model_dump_json(indent=2)
    if result is not None:
        write_atomically(result, text.encode())
    print(text)
