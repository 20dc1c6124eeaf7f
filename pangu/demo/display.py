"""A flow run in the terminal: a live table where there is one, a line for every change where there is not."""

import sys
import time

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from pangu.demo.button import Button, RunView, StageView

MARKS = {"COMPLETED": "[green]done", "FAILED": "[red]failed", "CRASHED": "[red]crashed", "RUNNING": "[cyan]running"}
SECONDS_BETWEEN_LOOKS = 1.5
PERCENT_BETWEEN_LINES = 20


def watch(button: Button, run_id: str, console: Console) -> RunView:
    """Show the run until it ends, and return how it ended."""
    follow = _follow_live if console.is_terminal else _follow_plainly
    return follow(button, run_id, console)


def _follow_live(button: Button, run_id: str, console: Console) -> RunView:
    with Live(console=console, refresh_per_second=4) as live:
        while True:
            view = button.look(run_id)
            live.update(_table(view))
            if view.is_final:
                return view
            time.sleep(SECONDS_BETWEEN_LOOKS)


def _table(view: RunView) -> Table:
    table = Table.grid(padding=(0, 2))
    for stage in view.stages:
        percent = 100.0 if stage.state == "COMPLETED" else stage.percent
        mark = MARKS.get(stage.state, stage.state.lower())
        bar = ProgressBar(total=100, completed=percent, width=24)
        table.add_row(stage.name, bar, mark, f"{stage.seconds:.0f} s", f"[dim]{stage.description}")
    return table


def _follow_plainly(button: Button, run_id: str, console: Console) -> RunView:
    shown: dict[str, tuple[str, int]] = {}
    while True:
        view = button.look(run_id)
        for stage in view.stages:
            step = (stage.state, int(stage.percent) // PERCENT_BETWEEN_LINES)
            if shown.get(stage.name) != step:
                shown[stage.name] = step
                print(_line(stage), file=sys.stdout if console.file is None else console.file, flush=True)
        if view.is_final:
            return view
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _line(stage: StageView) -> str:
    return f"{stage.name:16} {stage.state.lower():10} {stage.seconds:5.0f} s  {stage.description}"
