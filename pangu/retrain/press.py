"""One retraining of a card at a time: pressed once, joined by whoever asks for the same, cancelled by whoever asks for that."""

import contextlib
import shlex
import time
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from rich.console import Console

from pangu.errors import UserError
from pangu.file_lock import locked
from pangu.retrain.button import FINAL, AskedRun, Button, RunView
from pangu.retrain.display import watch
from pangu.stack import Stack, up
from pangu.storage import Home

DEPLOYMENT = "retrain-pair"
CANCELLED_WITHIN_S = 60.0


def started(home: Home, console: Console) -> Stack:
    """The stack of the home, started where none is up, and left running."""
    stack = Stack.load(home)
    if stack is not None and stack.is_complete:
        return stack
    console.print("Starting Prefect, MLflow and Ray ...", style="dim")
    return up(home, say=lambda line: say(console, line))


def pressed(stack: Stack, settings: dict[str, Any], called: str) -> tuple[str, bool]:
    """(id of the flow run, whether it was under way before): two who ask for the same at once get one run.

    called: the card, as whoever asks names it.

    Raises:
        UserError: the card is being trained with other settings.
    """
    button = Button(stack, DEPLOYMENT)
    with locked(Home(stack.home).stack / "press.lock", wait_s=None):
        going = under_way(button, settings["card"])
        if going is None:
            return button.press(settings, name=f"retrain {PurePath(settings['card']).stem}"), False
    if going.settings != settings:
        raise UserError(f"{called} is being trained with other settings already; {how(called, 'watch', 'cancel')}.")
    return going.run_id, True


def under_way(button: Button, card: str) -> AskedRun | None:
    """The run of a card that has not ended; the oldest of several."""
    return next((run for run in reversed(button.runs()) if run.settings.get("card") == card and not run.is_final), None)


def last_of(button: Button, card: str, called: str) -> AskedRun:
    """The run of a card that is under way, or else the newest that ended.

    Raises:
        UserError: there is none.
    """
    ended = next((run for run in button.runs() if run.settings.get("card") == card), None)
    found = under_way(button, card) or ended
    if found is None:
        raise UserError(f"{called} was never trained by this stack; begin with `{command(called)}`.")
    return found


def cancel(button: Button, card: str, called: str) -> str:
    """End the run of a card, and return its id when nothing of it is left.

    Raises:
        UserError: none is under way, or it does not end.
    """
    run = under_way(button, card)
    if run is None:
        raise UserError(f"No retraining of {called} is under way; begin one with `{command(called)}`.")
    button.cancel(run.run_id)
    until = time.monotonic() + CANCELLED_WITHIN_S
    while time.monotonic() < until:
        if button.look(run.run_id).state in FINAL:
            return run.run_id
        time.sleep(0.5)
    raise UserError(f"The retraining of {called} has not ended within {CANCELLED_WITHIN_S:.0f} s; see `pangu status`.")


def completed(button: Button, run_id: str, console: Console) -> RunView:
    """Watch a run to its end; leaving before, in any way, cancels it.

    Raises:
        UserError: it did not complete; says the run's own sentence.
    """
    with _cancelled_on_the_way_out(button, run_id):
        view = watch(button, run_id, console)
    if view.state != "COMPLETED":
        raise UserError(f"{DEPLOYMENT} ended as {view.state.lower()}: {view.message}")
    return view


@contextlib.contextmanager
def _cancelled_on_the_way_out(button: Button, run_id: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):
            button.cancel(run_id)
        raise


def how(called: str, *switches: str) -> str:
    """The commands for a run that goes on, as part of a sentence."""
    return ", ".join(f"{switch} it with `{command(called)} --{switch}`" for switch in switches)


def command(called: str) -> str:
    """What begins a retraining, as a shell takes it."""
    return f"pangu retrain {shlex.quote(called)}"


def say(console: Console, line: str) -> None:
    """As it is: the path of a home may look like Rich's markup."""
    console.print(line, style="dim", markup=False, soft_wrap=True)
