"""`pangu retrain NAME`: from a card to a served pair, in one command."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pangu.cli import complete
from pangu.cli.common import CardArgument, JsonOption, ResultOption, finish
from pangu.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from pangu.retrain.outcome import RetrainOutcome
    from pangu.storage import Home

INTERRUPTED = 130
"""Exit code of a program that Ctrl-C ended."""


def register(app: typer.Typer) -> None:
    """Add this part's command to `app`."""
    app.command()(retrain)


def retrain(
    card: CardArgument,
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            help="A recipe or a file of one. Default: the one that `pangu new` left beside the card, or demo.",
            autocompletion=complete.recipes,
        ),
    ] = "",
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Optimizer steps of each half. Default: the recipe's.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show the run that goes on, or how the last one ended.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Begin, and do not wait for the end.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="End the run that goes on; the next one continues.")] = False,
    result: ResultOption = None,
    as_json: JsonOption = False,
) -> None:
    """From a card to a served pair in one command: every stage, what is done already excepted."""
    if watch + detach + cancel > 1 or ((watch or cancel) and (recipe or steps)):
        raise UserError("Choose one of --watch, --detach and --cancel; --recipe and --steps are for a run that begins.")
    from rich.console import Console

    from pangu.retrain import asked
    from pangu.storage import Home

    home, console = Home.from_environment(), Console(stderr=True)
    settings = asked.settings_of(card, recipe, steps)
    try:
        if not (watch or cancel):
            asked.check(card, settings.get("recipe_file") or settings["recipe"], home)
        outcome = _run(card, settings, home, console, watch, detach, cancel)
    except KeyboardInterrupt:
        print(f"\npangu: {_left(card, settings['card'], home)}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    finish(outcome, result, as_json)
    if outcome.state in ("FAILED", "CRASHED") or (outcome.state == "CANCELLED" and not cancel):
        raise typer.Exit(1)


def _run(
    card: str, settings: dict[str, Any], home: "Home", console: "Console", watch: bool, detach: bool, cancel: bool
) -> "RetrainOutcome":
    from pangu.retrain import display, press
    from pangu.retrain.button import Button
    from pangu.retrain.outcome import RetrainOutcome, outcome_of
    from pangu.stack import Stack

    name = settings["card"]
    stack = Stack.require(home) if watch or cancel else press.started(home, console)
    button = Button(stack, press.DEPLOYMENT)
    if cancel:
        run_id, sentence = press.cancel(button, name, card), f"`{press.command(card)}` goes on where it stopped."
        return RetrainOutcome(run_id=run_id, card=card, state="CANCELLED", sentence=sentence)
    if watch:
        run_id = press.last_of(button, name, card).run_id
    else:
        run_id, joined = press.pressed(stack, settings, card)
        if joined:
            press.say(console, "This retraining is under way already; it is shown, and not begun again.")
    if detach:
        sentence = f"It goes on; {press.how(card, 'watch', 'cancel')}."
        return RetrainOutcome(run_id=run_id, card=card, state="RUNNING", sentence=sentence)
    press.say(console, f"Ctrl-C leaves it running. In the dashboard: {stack.prefect_url}/runs/flow-run/{run_id}")
    return outcome_of(home, run_id, card, display.watch(button, run_id, console))


def _left(card: str, name: str, home: "Home") -> str:
    """What Ctrl-C leaves behind, in a sentence."""
    from pangu.retrain import press
    from pangu.retrain.button import Button
    from pangu.stack import Stack

    stack = Stack.load(home)
    if stack is not None and stack.is_complete and press.under_way(Button(stack, press.DEPLOYMENT), name):
        return f"the retraining goes on; {press.how(card, 'watch', 'cancel')}."
    return f"nothing goes on; `{press.command(card)}` begins again, and finds what is done."
