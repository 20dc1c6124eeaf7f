"""The `pangu` command. Each module of this package adds the commands of one part; heavy imports wait inside them."""

import os
import sys

import typer

from pangu.errors import UserError
from pangu.storage import Home

app = typer.Typer(
    name="pangu",
    help="From a table of image URLs and captions to a served pair of text-to-image generators.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

OWN_STACK = {"up", "down", "status", "doctor", "backup", "restore", "demo"}
"""Commands that manage the stack rather than use it."""


@app.callback()
def use_running_stack(context: typer.Context) -> None:
    """From a table of image URLs and captions to a served pair of text-to-image generators."""
    if context.invoked_subcommand in OWN_STACK:
        return
    from pangu.stack.model import Stack

    stack = Stack.load(Home.from_environment())
    if stack is not None and stack.is_running:
        for name, value in stack.environment().items():
            os.environ.setdefault(name, value)


def main() -> None:
    """Entry point: bad input prints one sentence and exits with 2."""
    from pangu.cli import (
        coop,
        data,
        dataset,
        evaluation,
        gate,
        ledger,
        monitoring,
        planning,
        serving,
        stack,
        starter,
        training,
    )

    for part in (
        data,
        dataset,
        training,
        ledger,
        evaluation,
        gate,
        coop,
        serving,
        stack,
        monitoring,
        planning,
        starter,
    ):
        part.register(app)
    try:
        app()
    except UserError as error:
        print(f"pangu: {error}", file=sys.stderr)
        sys.exit(2)
