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

from pangu.config import Frozen
from pangu.data.openmoji import IMAGES
from pangu.demo.button import Button, RunView
from pangu.demo.display import watch
from pangu.demo.memory import PeakMemory
from pangu.demo.queries import LANGUAGES, Answers, ask
from pangu.demo.sheet import draw_sheet
from pangu.errors import UserError
from pangu.recipes import recipe as named_recipe
from pangu.stack import Stack, down, up
from pangu.storage import Home, read_json, write_atomically, write_json

DATASET = "openmoji"


class Summary(Frozen):
    """What the demo did, in figures; `summary.json` is this."""

    images_listed: int
    images_ingested: int
    images_failed: dict[str, int]
    images_upscaled: int
    dataset_version: int
    dataset_rows: int
    structure_rows: int
    texture_rows: int
    structure_steps: int
    texture_steps: int
    structure_loss: float
    texture_loss: float
    pair_version: int
    prompts: list[dict[str, str]]
    served_images: int
    retrieval_top1: float
    retrieval_top5: float
    retrieval_candidates: int
    retrieval_by_language: dict[str, dict[str, float]]
    stage_seconds: dict[str, float]
    total_seconds: float
    peak_rss_mb: float


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
            run_id, view = _retrain(stack, recipe, console)
        seconds |= {stage.name: stage.seconds for stage in view.stages}
        outcomes = {stage.name: read_json(home.root / "flows" / run_id / f"{stage.name}.json") for stage in view.stages}
        asked = time.monotonic()
        console.print("Asking the served pair for images, in Chinese and English ...")
        answers = ask(stack, DATASET, outcomes["prepare"]["version"], size)
        seconds["queries"] = time.monotonic() - asked
        save_sheet(home.root / "demo" / "contact_sheet.png", answers, outcomes)
        summary = summarise(outcomes, answers, seconds, time.monotonic() - began, memory.peak_mb)
        write_json(home.root / "demo" / "summary.json", summary.model_dump(mode="json"))
    return summary


@contextlib.contextmanager
def running_stack(home: Home, console: Console) -> Iterator[Stack]:
    """The stack of `home`; ended on the way out if it was started here."""
    before = Stack.load(home)
    ours = before is None or not before.is_running
    try:
        yield up(home, say=lambda text: console.print(f"[dim]{text}"))
    finally:
        if ours:
            with _undisturbed():
                down(home, say=lambda text: console.print(f"[dim]{text}"))


@contextlib.contextmanager
def image_origin(stack: Stack, drawings: int) -> Iterator[None]:
    """`pangu origin` in a process of its own, from its first word to the end of the block.

    Raises:
        UserError: it ended before it served anything.
    """
    log = Home(stack.home).logs / "origin.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "pangu", "origin", "--count", str(drawings)],
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


def _retrain(stack: Stack, recipe: str, console: Console) -> tuple[str, RunView]:
    """Press the button of `retrain-pair`, show its progress, and return the run's id and its end.

    Raises:
        UserError: the run did not complete; says the run's own sentence.
    """
    button = Button(stack, "retrain-pair")
    run_id = button.press({"card": DATASET, "recipe": recipe, "deploy": True})
    try:
        view = watch(button, run_id, console)
    except BaseException:
        with contextlib.suppress(Exception):
            button.cancel(run_id)
        raise
    if view.state != "COMPLETED":
        raise UserError(f"retrain-pair ended as {view.state.lower()}: {view.message}")
    return run_id, view


def summarise(
    outcomes: dict[str, Any], answers: Answers, seconds: dict[str, float], total_seconds: float, peak_mb: float
) -> Summary:
    """The figures of a run, out of the outcomes of its stages and the answers of the served pair."""
    ingested, prepared, encoded = outcomes["ingest"], outcomes["prepare"], outcomes["encode"]
    structure, texture = outcomes["train-structure"], outcomes["train-texture"]
    scores = {language: answers.score(language) for language in LANGUAGES}
    return Summary(
        images_listed=ingested["listed"],
        images_ingested=ingested["ok"],
        images_failed=ingested["failed"],
        images_upscaled=prepared["upscaled"],
        dataset_version=prepared["version"],
        dataset_rows=prepared["rows"],
        structure_rows=encoded["rows"]["structure"],
        texture_rows=encoded["rows"]["texture"],
        structure_steps=structure["steps"],
        texture_steps=texture["steps"],
        structure_loss=structure["loss"],
        texture_loss=texture["loss"],
        pair_version=outcomes["release"]["pair_version"],
        prompts=[{"zh": prompt.zh, "en": prompt.en} for prompt in answers.prompts],
        served_images=sum(len(images) for images in answers.images.values()),
        retrieval_top1=sum(score.top1 for score in scores.values()) / len(scores),
        retrieval_top5=sum(score.top5 for score in scores.values()) / len(scores),
        retrieval_candidates=len(answers.truth),
        retrieval_by_language={name: {"top1": one.top1, "top5": one.top5} for name, one in scores.items()},
        stage_seconds={name: round(value, 1) for name, value in seconds.items()},
        total_seconds=round(total_seconds, 1),
        peak_rss_mb=round(peak_mb, 1),
    )


def save_sheet(path: Path, answers: Answers, outcomes: dict[str, Any]) -> None:
    """Rows: what was drawn for the Chinese prompts, for the English ones, and the training images."""
    from pangu.data.openmoji import attribution

    rows = [
        ("Chinese\nprompts", answers.images["zh"], [prompt.zh for prompt in answers.prompts]),
        ("English\nprompts", answers.images["en"], [prompt.en for prompt in answers.prompts]),
        ("Training\nimages", [answers.truth[prompt.key] for prompt in answers.prompts], [""] * len(answers.prompts)),
    ]
    title = f"PanGu pair {outcomes['release']['pair_version']}: drawn from prompts, above what it learned from"
    buffer = io.BytesIO()
    draw_sheet(rows, title, f"Training images: {attribution()}").save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())


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
