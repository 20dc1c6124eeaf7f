"""`pangu demo`: the whole main job from nothing to a contact sheet, and nothing left running."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from pangu.data.example.chalk import render_chalk
from pangu.data.example.openmoji import IMAGES
from pangu.demo.before import before, gain
from pangu.demo.peak_memory import PeakMemory
from pangu.demo.queries import Answers, ask, never_trained, trained
from pangu.demo.sheet import draw_sheet
from pangu.demo.summary import Summary, summarise
from pangu.errors import UserError
from pangu.recipes import recipe as named_recipe
from pangu.retrain.button import Button
from pangu.retrain.outcome import outcomes_of
from pangu.retrain.press import DEPLOYMENT, completed, pressed, say
from pangu.stack import Stack, down, up
from pangu.storage import Home, write_atomically, write_json

DATASET = "openmoji_chalk"


def demo(home: Home, recipe: str, console: Console, drawings: int = IMAGES) -> Summary:
    """Run the main job on so many drawings and leave `demo/contact_sheet.png` and `demo/summary.json` under `home`.

    A stack that already runs is used and left running; one that is started here is ended here, whatever happens.

    Raises:
        UserError: a stage refused its input or failed; the sentence says which and why.
    """
    began = time.monotonic()
    size = named_recipe(recipe).structure.resolution
    with _interruptible(), running_stack(home, console) as stack, PeakMemory(stack.stack_id) as memory:
        seconds = {"up": time.monotonic() - began}
        _say_addresses(stack, console)
        with image_origin(stack, drawings):
            run_id, _ = pressed(stack, {"card": DATASET, "recipe": recipe}, DATASET)
            view = completed(Button(stack, DEPLOYMENT), run_id, console)
        seconds |= {stage.name: stage.seconds for stage in view.stages}
        outcomes = outcomes_of(home, run_id)
        asked = time.monotonic()
        console.print("Asking the served pair for images, in Chinese and English ...")
        answers = trained(stack, DATASET, outcomes["prepare"]["version"])
        ask(stack, answers, size)
        others = never_trained(size, render_chalk) if starts_from_the_starter(recipe) else None
        if others is not None:
            ask(stack, others, size)
        earlier = before(named_recipe(recipe), answers, size)
        seconds["queries"] = time.monotonic() - asked
        save_sheet(home.root / "demo" / "contact_sheet.png", answers, earlier, others, outcomes)
        gained = gain(answers, earlier)
        summary = summarise(outcomes, answers, others, gained, seconds, time.monotonic() - began, memory.peak_mb)
        write_json(home.root / "demo" / "summary.json", summary.model_dump(mode="json"))
    return summary


def starts_from_the_starter(recipe: str) -> bool:
    """Only such a pair has an idea of captions that the demo's dataset does not have."""
    start = named_recipe(recipe).init_from
    return start is not None and start.source == "embedded"


@contextlib.contextmanager
def running_stack(home: Home, console: Console) -> Iterator[Stack]:
    """The stack of `home`; ended on the way out if it was started here."""
    before = Stack.load(home)
    ours = before is None or not before.is_running
    try:
        yield up(home, say=lambda text: say(console, text))
    finally:
        if ours:
            with _undisturbed():
                down(home, say=lambda text: say(console, text))


@contextlib.contextmanager
def image_origin(stack: Stack, drawings: int) -> Iterator[None]:
    """`pangu example-server` in a process of its own, from its first word to the end of the block.

    Raises:
        UserError: it ended before it served anything.
    """
    log = Home(stack.home).logs / "origin.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "pangu", "example-server", "--chalk", "--count", str(drawings)],
            env={**os.environ, **stack.environment()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # Ctrl-C is for the demo, which then ends the origin itself
        )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        if not first or "url" not in json.loads(first):
            raise UserError(f"The image origin of the demo did not start; see {log}.")
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def save_sheet(
    path: Path, answers: Answers, earlier: Answers, others: Answers | None, outcomes: dict[str, Any]
) -> None:
    """Rows: drawn for Chinese prompts, for English ones, and the true images; of captions trained, and of others.

    Above those of captions trained stands what the pair drew for them before this training.
    """
    from pangu.data.example.openmoji import attribution

    rows = sheet_rows(earlier, "BEFORE", "")[:-1] + sheet_rows(answers, "AFTER", "in chalk,\nshown")
    rows += sheet_rows(others, "never trained", "in chalk,\nnever shown") if others else []
    title = f"PanGu pair {outcomes['release']['pair_version']}: a look learnt, drawn from prompts, above true drawings"
    buffer = io.BytesIO()
    draw_sheet(rows, title, f"OpenMoji's drawings, changed to chalk: {attribution()}").save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())


def sheet_rows(answers: Answers, prompts: str, truth: str) -> list[tuple[str, list[Any], list[str]]]:
    """One row for each language and one of true images, with their labels and captions."""
    return [
        (f"Chinese\n{prompts}", answers.images["zh"], [prompt.zh for prompt in answers.prompts]),
        (f"English\n{prompts}", answers.images["en"], [prompt.en for prompt in answers.prompts]),
        (truth, [answers.truth[prompt.key] for prompt in answers.prompts], [""] * len(answers.prompts)),
    ]


def _say_addresses(stack: Stack, console: Console) -> None:
    console.print(f"Prefect {stack.prefect_url}   MLflow {stack.mlflow_url}   Ray {stack.ray_dashboard_url}")


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C does, so that everything is ended on the way out."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C does not keep the stack from being ended."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
