"""What commands print: the outcome alone on standard output, all else on standard error, and for each reader what it reads."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from pydantic import BaseModel

from pangu.cli import GROUPS
from pangu.cli.common import finish, readable
from pangu.cli.data import ingest
from pangu.cli.quiet import Silence
from pangu.progress import FORMAT, Display, Progress, parse_progress
from pangu.train.follow import followed
from pangu.train.history import HISTORY_FILE, History
from tests import subtests
from tests.train.tracked import tracked_job

checks = subtests.Checks()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def steps(*done: int) -> list[Progress]:
    return [Progress(stage="train", done=n, total=40, unit="steps", facts={"loss": 0.123456, "run": "r"}) for n in done]


def shown(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, *done: int) -> str:
    monkeypatch.setattr("sys.stderr", stream)
    display = Display()
    for progress in steps(*done):
        display(progress)
    display.close()
    return stream.getvalue()


def test_a_program_reads_every_step_a_terminal_shows_a_bar_and_a_log_a_few_sentences(monkeypatch, capsys) -> None:
    monkeypatch.delenv(FORMAT, raising=False)
    log = shown(monkeypatch, io.StringIO(), *range(1, 41)).splitlines()
    assert log == ["train: 1 of 40 steps, loss 0.1235", "train: 40 of 40 steps, loss 0.1235"]
    bar = shown(monkeypatch, Terminal(), 1, 40)
    assert "train: 100%" in bar and "40/40" in bar and "loss 0.1235" in bar and "{" not in bar
    monkeypatch.setenv(FORMAT, "json")
    lines = shown(monkeypatch, io.StringIO(), 1, 2).splitlines()
    assert [parse_progress(line) for line in lines] == steps(1, 2)
    assert capsys.readouterr().out == ""


@checks
def a_command_that_shows_nothing_says_what_it_does_after_five_seconds_and_then_ever_more_seldom() -> None:
    display = Display()
    silence = Silence("encode", "turn a version into latents.", display, 100.0)
    said = [second for second in range(101, 200) if silence.look(second)]
    assert said == [105, 115, 135, 175]
    display.shown_at = 200.0
    assert (
        silence.look(204.0) == ""
        and silence.look(205.0) == "encode: at work for 105 s. It is to turn a version into latents."
    )


def test_an_outcome_is_json_for_programs_and_lines_for_people(monkeypatch, capsys, tmp_path: Path) -> None:
    class Outcome(BaseModel):
        rows: dict[str, int] = {"structure": 3, "texture": 2}
        loss: float = 0.123456789
        version: int | None = None
        names: list[str] = ["a", "b"]

    finish(Outcome(), tmp_path / "outcome.json")
    printed = capsys.readouterr().out
    assert json.loads(printed) == json.loads((tmp_path / "outcome.json").read_text()) == Outcome().model_dump()
    monkeypatch.setattr("sys.stdout", screen := Terminal())
    finish(Outcome(), None)
    assert screen.getvalue().splitlines() == [
        "rows.structure  3", "rows.texture    2", "loss            0.123457", "names           a, b",
    ]  # fmt: skip
    monkeypatch.setattr("sys.stdout", screen := Terminal())
    finish(Outcome(), None, as_json=True)
    assert json.loads(screen.getvalue()) == Outcome().model_dump()
    assert readable({}) == ""


def test_what_a_command_prints_can_be_piped_into_a_parser(home, monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.delenv(FORMAT, raising=False)
    (folder := tmp_path / "pictures").mkdir()
    Image.new("RGB", (80, 80), "red").save(folder / "red.png")
    (folder / "red.txt").write_text("a red square")
    card = tmp_path / "squares.yaml"
    card.write_text("name: squares\nsource: pictures\ncolumns: {caption_en: txt}\nlicence: {name: none}\n")
    ingest(str(card))
    printed = capsys.readouterr()
    assert json.loads(printed.out)["ok"] == 1
    assert "ingest: 1 of 1 images" in printed.err and "PANGU" not in printed.err


@checks
def a_run_in_other_processes_is_followed_through_its_history_and_no_step_is_told_twice(tmp_path: Path) -> None:
    job = tracked_job(tmp_path)
    history, told = History(job.run_folder / HISTORY_FILE), list[Progress]()
    history.add(1, {"loss": 0.5})
    with followed(job, told.append):
        for step in (2, 3):
            history.add(step, {"loss": 0.5 / step})
    assert [progress.done for progress in told] == [0, 2, 3]
    assert told[-1].facts == {"loss": 0.5 / 3} and told[-1].total == job.recipe.training(job.role).steps


@checks
def the_help_shows_every_command_in_its_group_in_the_order_in_which_a_user_needs_it() -> None:
    plain = os.environ | {"NO_COLOR": "1", "COLUMNS": "120"}
    done = subprocess.run([sys.executable, "-m", "pangu", "--help"], capture_output=True, text=True, env=plain)
    assert done.returncode == 0, done.stderr
    places = [done.stdout.index(f"─ {group} ─") for group in GROUPS]
    assert places == sorted(places)
    listed = re.findall(r"^│ (\w[\w-]*) ", done.stdout, re.MULTILINE)
    assert listed == [name for names in GROUPS.values() for name in names]


test_terminal = checks.test()
