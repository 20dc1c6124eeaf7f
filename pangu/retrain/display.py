"""A flow run in the terminal: a live table where there is one, a line for every change where there is not."""

import sys
import time
from collections.abc import Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pangu.retrain.button import Button, RunView, StageView

MARKS = {"COMPLETED": "[green]done", "FAILED": "[red]failed", "CRASHED": "[red]crashed", "RUNNING": "[cyan]running"}
SECONDS_BETWEEN_LOOKS = 1.5
PERCENT_BETWEEN_LINES = 20
QUIET_S = 5.0
"""A stage that shows nothing new for so long says what it does."""
LEAST_PERCENT, LEAST_S = 2.0, 5.0
"""Of a stage, before it is said how long it still takes."""
DOES = {
    "ingest": "reads what the card lists, and fetches it",
    "prepare": "decodes, scores and enlarges pictures, and commits a version of the dataset",
    "encode": "loads the encoders, and turns pictures and captions into latents and embeddings",
    "train-structure": "starts its worker, or saves or samples",
    "train-texture": "starts its worker, or saves or samples",
    "evaluate": "joins the two halves, draws with them and measures what they drew",
    "gate": "lets what served before draw the same prompts, and compares",
    "release": "registers the pair and its two halves",
    "deploy": "loads the pair into the server, which draws with it once",
}


def watch(button: Button, run_id: str, console: Console) -> RunView:
    """Show the run until it ends, and return how it ended."""
    follow = _follow_live if console.is_terminal else _follow_plainly
    return follow(button, run_id, console)


class Quiet:
    """How long each stage has shown nothing new, s."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[StageView, float]] = {}

    def seconds(self, stage: StageView, now: float) -> float:
        shown, since = self._last.get(stage.name, (None, now))
        if shown is None or (shown.state, shown.percent, shown.description) != (
            stage.state, stage.percent, stage.description,
        ):  # fmt: skip
            since = now
        self._last[stage.name] = (stage, since)
        return now - since


def _looks(button: Button, run_id: str) -> Iterator[RunView]:
    """What is to be seen, again and again, up to the end of the run."""
    while True:
        view = button.look(run_id)
        yield view
        if view.is_final:
            return
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _follow_live(button: Button, run_id: str, console: Console) -> RunView:
    quiet = Quiet()
    with Live(console=console, refresh_per_second=4) as live:
        for view in _looks(button, run_id):
            live.update(_picture(view, quiet, time.monotonic()))
    return view


def _picture(view: RunView, quiet: Quiet, now: float) -> Group:
    table = Table.grid(padding=(0, 2))
    for stage in view.stages:
        percent = 100.0 if stage.state == "COMPLETED" else stage.percent
        mark = MARKS.get(stage.state, stage.state.lower())
        bar = ProgressBar(total=100, completed=percent, width=24)
        words = _words(stage, quiet.seconds(stage, now))
        table.add_row(stage.name, bar, mark, f"{stage.seconds:.0f} s", remaining(stage), f"[dim]{escape(words)}")
    return Group(table, Text(waiting_for(view), style="dim"))


def _follow_plainly(button: Button, run_id: str, console: Console) -> RunView:
    shown: dict[str, tuple[str, int, bool]] = {}
    quiet = Quiet()
    waited = ""
    for view in _looks(button, run_id):
        if (waits := waiting_for(view)) != waited:
            waited = waits
            _print(waits, console)
        for stage in view.stages:
            silent_s = quiet.seconds(stage, time.monotonic())
            is_quiet = stage.state == "RUNNING" and silent_s >= QUIET_S
            step = (stage.state, int(stage.percent) // PERCENT_BETWEEN_LINES, is_quiet)
            before = shown.get(stage.name)
            shown[stage.name] = step
            if before != step and (before is None or before[:2] != step[:2] or is_quiet):
                line = f"{stage.name:16} {stage.state.lower():10} {stage.seconds:5.0f} s  {_words(stage, silent_s)}"
                _print("  ".join(filter(None, (line, remaining(stage)))), console)
    return view


def _words(stage: StageView, silent_s: float) -> str:
    """What the stage says of itself; what it does, where it runs and is quiet."""
    if stage.state != "RUNNING" or silent_s < QUIET_S or stage.name not in DOES:
        return stage.description
    said = stage.description if stage.percent else ""
    return "; ".join(filter(None, (said, f"{DOES[stage.name]} ({silent_s:.0f} s without news)")))


def remaining(stage: StageView) -> str:
    """About how long a running stage still takes, by what it has done; "" where nobody can say."""
    if stage.state != "RUNNING" or not LEAST_PERCENT <= stage.percent < 100 or stage.seconds < LEAST_S:
        return ""
    seconds = stage.seconds * (100 / stage.percent - 1)
    return f"about {seconds:.0f} s left" if seconds < 90 else f"about {seconds / 60:.0f} min left"


def waiting_for(view: RunView) -> str:
    """Why nothing of the run is to be seen yet, or any more; "" where a stage is."""
    if view.name == "AwaitingConcurrencySlot":
        return "Another retraining is under way; this one waits for it."
    if view.state == "PAUSED":
        return "It waits for a person's answer in Prefect's dashboard."
    if view.state == "CANCELLING":
        return "It is being cancelled."
    return "The flow is starting." if not view.stages and not view.is_final else ""


def _print(line: str, console: Console) -> None:
    if line:
        print(line, file=sys.stdout if console.file is None else console.file, flush=True)
