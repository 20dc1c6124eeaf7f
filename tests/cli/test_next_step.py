"""From the first command to the last, each names the one behind it, by what lies in the home alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pangu.cli.next_step import FIRST, behind, first_command, next_command
from pangu.data.card import load_card
from pangu.data.ingest.stage import IngestOutcome, ingest
from pangu.data.prepare.stage import prepare
from pangu.evaluate.matrix import MatrixOutcome, PairScore
from pangu.evaluate.protocol import EvaluateOutcome
from pangu.exchange.export_pair import Exported
from pangu.gate.decision import Decision
from pangu.registry.release import ReleaseOutcome
from pangu.serve.deploy import DeployOutcome
from pangu.stack.backup import BackupOutcome
from pangu.storage import Home, write_json
from pangu.train.job import TrainOutcome
from tests.data.propose.made_pictures import drawing, new_card, pictures


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.chdir(tmp_path)
    return Home(tmp_path / "var", tables="")


def older(*paths: Path) -> None:
    """Results of one test are made within the clock's step."""
    for path in paths:
        stat = path.stat()
        os.utime(path, (stat.st_atime, stat.st_mtime - 5))


def test_every_stage_is_followed_by_the_next_one_with_the_ids_that_it_needs(here: Home) -> None:
    def said() -> str:
        return next_command(here, "spots", "spots")

    assert first_command(here) == FIRST
    made = new_card(pictures(Path("spots"), 9), here)
    assert made.next_command == first_command(here)[0] == "pangu retrain spots"
    assert said() == "pangu ingest spots"
    ingested = ingest(load_card("spots"), here)
    assert (
        said() == behind(ingested, ["ingest", "spots"], here) == f"pangu prepare spots --ingest-id {ingested.ingest_id}"
    )
    older(*here.raw("spots", ingested.ingest_id).glob("outcome.json"))
    prepared = prepare(load_card("spots"), ingested.ingest_id, here)
    recipe = "--recipe datasets/spots.recipe.json"
    assert said() == behind(prepared, [], here) == f"pangu encode spots --version 0 {recipe}"
    assert behind(prepared, ["--recipe=tiny"], here) == "pangu encode spots --version 0 --recipe tiny"

    (here.dataset("spots") / "encoded/e1").mkdir(parents=True)
    older(*here.table("spots").glob("_delta_log/*.json"), *here.raw("spots", ingested.ingest_id).glob("outcome.json"))
    write_json(here.encoded("spots", "e1") / "manifest.json", {})
    assert said() == f"pangu train spots --encode-id e1 {recipe} --role structure"
    for role in ("structure", "texture"):
        write_json(
            here.run(role) / "job.json", {"role": role, "encode_id": "e1", "encoded": str(here.encoded("spots", "e1"))}
        )
        write_json(here.run(role) / "outcome.json", {"generator": f"runs/{role}/generator"})
        if role == "structure":
            trained = TrainOutcome(role=role, run_name=role, generator="", steps=1, loss=0.0, rows=1)
            assert (
                behind(trained, ["train", "spots"], here) == f"pangu train spots --encode-id e1 {recipe} --role texture"
            )
    halves = "--structure runs/structure/generator --texture runs/texture/generator"
    assert said() == f"pangu evaluate spots {halves} --encode-id e1 {recipe} --result spots.evaluated.json"

    job = {"role": "texture", "encode_id": "e1", "recipe": {"further_boundaries": [300]}}
    write_json(here.run("newest") / "job.json", job)
    os.utime(here.run("newest") / "job.json", (2**31, 2**31))
    assert said() == f"pangu train spots --encode-id e1 {recipe} --role middle"

    (Path("spots") / "more.png").write_bytes(drawing(50))
    (Path("spots") / "more.txt").write_text("one more")
    again = ingest(load_card("spots"), here)
    os.utime(here.raw("spots", again.ingest_id) / "outcome.json", (2**31, 2**31))
    assert said() == f"pangu prepare spots --ingest-id {again.ingest_id}", "what is newer is not prepared yet"


def test_a_measured_pair_is_released_and_a_release_deployed(here: Home) -> None:
    measured = EvaluateOutcome.model_construct(pair_id="p", pair="pairs/p", metrics={})
    asked = ["evaluate", "c", "--structure", "a b", "--texture=t", "--encode-id", "e", "--result", "r.json"]
    assert (
        behind(measured, asked, here) == "pangu release --pair pairs/p --structure 'a b' --texture t --metrics r.json"
    )
    assert behind(measured, ["evaluate", "c", "--pair", "embedded"], here) == ""
    served = DeployOutcome(pair_version=1, url="http://127.0.0.1:8000", already_done=False)
    assert behind(served, ["deploy"], here) == "python -m webbrowser http://127.0.0.1:8000/studio"
    facts = {"pair_version": 1, "structure_version": 1, "texture_version": 1, "sha256": ""}
    assert (
        behind(ReleaseOutcome(alias="champion", already_done=False, **facts), [], here)
        == "pangu deploy --alias champion"
    )
    best = PairScore(structure="a b", texture="t", pair_id="p", metrics={})
    asked = ["pair-matrix", "photos", "--structure", "x", "--recipe", "tiny"]
    assert behind(MatrixOutcome.model_construct(best=best), asked, here) == (
        "pangu evaluate photos --structure 'a b' --texture t --recipe tiny --result photos.evaluated.json"
    )
    with pytest.raises(ValueError, match="an option first"):  # nothing is said then, rather than something wrong
        behind(MatrixOutcome.model_construct(best=best), ["pair-matrix", "--recipe", "tiny", "photos"], here)
    write_json(Path("r.json"), {"pair": "pairs/p"})
    asked = ["gate", "photos", "--metrics", "r.json"]
    for passed in (True, False):
        decided = Decision(passed=passed, reason="", verdicts=(), pair_id="p")
        halves = "--structure pairs/p --texture pairs/p"
        command = f"pangu release --pair pairs/p {halves} --metrics r.json"
        assert behind(decided, asked, here) == (command if passed else "")
    write_json(Path("pairs/p/model_index.json"), {"contracts": {"structure": {}, "middle": {}, "texture": {}}})
    halves = "--structure pairs/p --middle pairs/p --texture pairs/p"
    decided = Decision(passed=True, reason="", verdicts=(), pair_id="p")
    assert behind(decided, asked, here) == f"pangu release --pair pairs/p {halves} --metrics r.json"
    asked = ["evaluate", "c", "--structure", "s", "--middle", "m", "--middle=n", "--texture", "t", "--result", "r.json"]
    halves = "--structure s --middle m --middle n --texture t"
    assert behind(measured, asked, here) == f"pangu release --pair pairs/p {halves} --metrics r.json"
    kept = BackupOutcome(file="a b.tar", files=1, bytes=1)
    assert behind(kept, ["backup", "a b.tar"], here) == "PANGU_HOME=EMPTY_FOLDER pangu restore 'a b.tar'"
    assert behind(kept, ["restore", "a b.tar"], here) == ""
    left = Exported(folder="out", components=[], single_files=[], adapters=[], warnings=[])
    assert behind(left, ["export", "fox", "out"], here) == "pangu push fox OWNER/NAME"


def test_a_card_that_is_named_by_its_path_stays_so(here: Home) -> None:
    outcome = IngestOutcome(dataset="spots", ingest_id="i", listed=1, ok=1, failed={})
    assert behind(outcome, ["ingest", "else/my card.yaml"], here) == "pangu ingest 'else/my card.yaml'"


def test_pangu_alone_says_where_to_begin_and_its_version_is_that_of_the_package(here: Home) -> None:
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PANGU_HOME": str(here.root), "PYTHONPATH": root, "NO_COLOR": "1"}

    def run(*arguments: str) -> str:
        asked = [sys.executable, "-m", "pangu", *arguments]
        return subprocess.run(asked, env=environment, capture_output=True, text=True).stdout

    assert run().rstrip().splitlines()[-1].startswith("Next: pangu new FOLDER")
    assert run("--version").startswith("pangu ")
    assert json.loads(run("recipes", "tiny"))["name"] == "tiny"


@pytest.mark.long
def test_the_shell_completes_cards_recipes_datasets_and_runs(here: Home) -> None:
    new_card(pictures(Path("spots"), 9), here)
    here.run("structure-ab").mkdir(parents=True)
    root = str(Path(__file__).parents[2])
    called = "import sys; sys.argv[0] = 'pangu'; from pangu.cli import main; main()"

    def proposed(line: str) -> list[str]:
        asked = {"_PANGU_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        environment = os.environ | {"PANGU_HOME": str(here.root), "PYTHONPATH": root} | asked
        return subprocess.run(
            [sys.executable, "-c", called], env=environment, capture_output=True, text=True
        ).stdout.split()

    assert proposed("pangu ingest sp") == ["spots"] and "openmoji" in proposed("pangu prepare open")
    assert proposed("pangu train spots --recipe de") == ["demo", "demo_flow"]
    assert proposed("pangu train spots --recipe data") == ["datasets/spots.recipe.json"]
    assert proposed("pangu dataset log s") == ["spots"] and proposed("pangu samples-seen s") == ["structure-ab"]
    assert proposed("pangu retrain sp") == ["spots"] and proposed("pangu prepare spots --ingest-id la") == ["latest"]
    assert proposed("pangu ne") == ["new"]
