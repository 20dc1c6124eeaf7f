"""The `pangu` command. Each module of this package adds the commands of one part; heavy imports wait inside them."""

import os
import sys
from functools import cache
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import pangu
from pangu.cli.quiet import COMMANDS, hush_imports, speak_up
from pangu.errors import UserError
from pangu.extras import check_command, extras_named, is_findable
from pangu.garbage import look_seldom
from pangu.storage import Home

GROUPS = {
    "Start": ("demo", "new", "retrain", "up", "serve", "recipes", "doctor"),
    "Data": ("cards", "example-server", "ingest", "prepare", "dataset", "encode"),
    "Train": ("plan", "calibrate", "train", "distill", "samples-seen", "assemble", "starter"),
    "Evaluate": ("evaluate", "pair-matrix", "boundary"),
    "Import and export": ("import", "quantise", "export", "push"),
    "Release and serve": ("gate", "release", "deploy", "rollback", "coop"),
    "Operate": ("status", "down", "deployments", "metrics", "backup", "restore"),
}
"""What `pangu --help` shows together, in the order in which a user needs it."""


class InOrder(TyperGroup):
    """Lists the commands as `GROUPS` does."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for names in GROUPS.values() for name in names]


app = typer.Typer(
    name="pangu",
    cls=InOrder,
    help="From a table of image URLs and captions to a served pair of text-to-image generators.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

OWN_STACK = {"up", "down", "status", "doctor", "backup", "restore", "demo", "retrain"}
"""Commands that manage the stack rather than use it."""


def say_version(asked: bool) -> None:
    """`pangu --version`."""
    if asked:
        print(f"pangu {pangu.__version__}")
        raise typer.Exit


@app.callback()
def use_running_stack(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=say_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """From a table of image URLs and captions to a served pair of text-to-image generators."""
    command = context.invoked_subcommand
    if "--help" not in sys.argv:
        check_command(command)
    if command in OWN_STACK:
        return
    if command in COMMANDS:
        speak_up(command, context.command.commands[command].help or "")  # type: ignore[attr-defined]
    if not is_findable("psutil"):  # the core knows of no stack
        return
    from pangu.stack.model import Stack

    stack = Stack.load(Home.from_environment())
    if stack is not None and stack.is_running:
        for name, value in stack.environment().items():
            os.environ.setdefault(name, value)


def grouped(app: typer.Typer) -> None:
    """Put every command into its group."""
    panels = {name: group for group, names in GROUPS.items() for name in names}
    for command in app.registered_commands:
        name = command.name or command.callback.__name__.replace("_", "-")  # type: ignore[union-attr]
        command.rich_help_panel = panels[name]
    for group in app.registered_groups:
        group.rich_help_panel = panels[str(group.name)]


@cache
def whole() -> typer.Typer:
    """The application with every command in its group."""
    from pangu.cli import (
        coop,
        data,
        dataset,
        evaluation,
        exchange,
        gate,
        monitoring,
        new,
        planning,
        retrain,
        samples_seen,
        serving,
        stack,
        starter,
        training,
    )

    for part in (
        new,
        retrain,
        data,
        dataset,
        training,
        samples_seen,
        evaluation,
        exchange,
        gate,
        coop,
        serving,
        stack,
        monitoring,
        planning,
        starter,
    ):
        part.register(app)
    grouped(app)
    return app


def main() -> None:
    """Entry point: bad input prints one sentence and exits with 2."""
    from pangu.cli.next_step import first_command

    look_seldom()
    hush_imports()
    try:
        with extras_named("This command"):
            whole()()
    except SystemExit:
        if len(sys.argv) == 1 and "_PANGU_COMPLETE" not in os.environ:  # which a shell asks for proposals by
            print("Next: {}    ({})".format(*first_command(Home.from_environment())))
        raise
    except UserError as error:
        print(f"pangu: {error}", file=sys.stderr)
        sys.exit(2)
