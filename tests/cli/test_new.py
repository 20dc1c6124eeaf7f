"""`pangu new` as a user meets it: in a pipe, on a terminal, and with bad input."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.propose.made_pictures import pictures

COMMAND = [sys.executable, "-m", "pangu", "new"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PANGU")}
    root = str(Path(__file__).parents[2])
    return kept | {"PANGU_HOME": str(tmp_path / "var"), "NO_COLOR": "1", "PYTHONPATH": root}


def run(folder: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess:
    asked = [*COMMAND, *arguments]
    return subprocess.run(asked, cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.mark.long
def test_in_a_pipe_the_outcome_alone_is_printed_and_nothing_is_guessed_or_overwritten(tmp_path, environment) -> None:
    pictures(tmp_path / "spots", 12)
    silent = run(tmp_path, environment, "spots")
    assert (silent.returncode, silent.stdout) == (2, "") and "Add --yes and --licence" in silent.stderr
    unsaid = run(tmp_path, environment, "spots", "--yes")
    assert unsaid.returncode == 2 and "Add --licence, because nobody can guess it" in unsaid.stderr
    assert not (tmp_path / "datasets").exists()
    done = run(tmp_path, environment, "spots", "--yes", "--licence", "my own", "--result", "made.json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made == json.loads((tmp_path / "made.json").read_text()) and made["ok"] == 12
    assert "12 rows, and all can be used." in done.stderr and done.stderr.count("12 pictures are few") == 1
    card = tmp_path / made["card"]
    assert "licence:\n  name: my own\n" in card.read_text() and (tmp_path / made["recipe"]).is_file()
    card.write_text(card.read_text() + "# mine\n")
    again = run(tmp_path, environment, "spots", "--yes", "--licence", "my own")
    assert again.returncode == 2 and "already" in again.stderr and card.read_text().endswith("# mine\n")
    assert run(tmp_path, environment, "spots", "--yes", "--licence", "my own", "--force").returncode == 0
    assert not card.read_text().endswith("# mine\n")


def on_a_terminal(folder: Path, environment: dict[str, str], answers: list[tuple[str, str]]) -> tuple[int, str]:
    """Exit status and all that a person sees who gives each answer where its question is asked."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execve(sys.executable, [*COMMAND, "spots"], environment)
    shown, asked = "", list(answers)
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:
            break
        shown += data.decode(errors="replace")
        if asked and asked[0][0] in shown:
            os.write(terminal, f"{asked.pop(0)[1]}\n".encode())
        if not data:
            break
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), shown


def test_a_person_is_told_in_sentences_and_asked_for_the_licence_and_before_anything_is_written(
    tmp_path, environment
) -> None:
    pictures(tmp_path / "spots", 40)
    status, shown = on_a_terminal(tmp_path, environment, [("Licence of the pictures", "my own"), ("[Y/n]", "n")])
    assert status == 2 and "Nothing was written" in shown and not (tmp_path / "datasets").exists()
    status, shown = on_a_terminal(tmp_path, environment, [("Licence of the pictures", "my own"), ("[Y/n]", "y")])
    assert status == 0 and "{" not in shown
    assert "40 pictures are large enough for texture" in shown and "the recipe `demo`" in shown
    assert shown.rstrip().endswith("pangu ingest spots")
    sheet = next(line for line in shown.splitlines() if "proposal.png" in line).rpartition(" ")[2].strip()
    assert Path(sheet).read_bytes().startswith(b"\x89PNG")
